//! Storing a file of 1 GiB in a folder, beside what others take for the same bytes in the same minute.
//! Prints medians of five, their ratios, and the peak of memory.
//!
//! ```sh
//! cargo bench -p bstar-cache --bench store      # in the folder for temporary files, or in BENCH_DIR
//! ```

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use bstar_cache::Store;

mod gigabyte;

use gigabyte::{peak_megabytes, write};

const REPEATS: usize = 5;

#[expect(clippy::print_stdout, reason = "the answer of the benchmark")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let place = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(place)?;
    let path = |name: &str| folder.path().join(name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut times: [Vec<f64>; 5] = Default::default();
    write(&path("file"))?;
    let mut peak = 0;
    for round in 0..=REPEATS {
        let store = runtime.block_on(Store::open(&path("store").to_string_lossy()))?;
        let copy = timed(|| {
            let status =
                Command::new("cp").arg("--reflink=never").args([path("file"), path("copy")]).status()?;
            if status.success() { Ok(()) } else { Err(std::io::Error::other("cp failed")) }
        })?;
        std::fs::remove_file(path("copy"))?;
        let put = timed(|| {
            runtime.block_on(store.put_file(&path("file"))).map(drop).map_err(std::io::Error::other)
        })?;
        if round == 0 {
            // Before the other one maps the file.
            peak = peak_megabytes();
        }
        std::fs::remove_dir_all(path("store"))?;
        let store = runtime.block_on(Store::open(&path("store").to_string_lossy()))?;
        let hash = timed(|| {
            let mut hasher = blake3::Hasher::new();
            std::hint::black_box(hasher.update_mmap_rayon(path("file"))?.finalize());
            Ok(())
        })?;
        let mut artifact = None;
        let adopt = timed(|| {
            let adopted = runtime.block_on(store.adopt_file(&path("file")));
            artifact = Some(adopted.map_err(std::io::Error::other)?);
            Ok(())
        })?;
        let artifact = artifact.ok_or("nothing was stored")?;
        // The first time the content is verified, later ones trust that.
        std::thread::sleep(std::time::Duration::from_secs(2));
        let place = |name: &str| runtime.block_on(store.materialise(&artifact, &path(name)));
        place("first").map_err(std::io::Error::other)?;
        let materialise = timed(|| place("second").map_err(std::io::Error::other))?;
        // The name in the store is its own, so the file can be taken back.
        std::fs::remove_file(path("second"))?;
        std::fs::remove_file(path("first"))?;
        std::fs::remove_dir_all(path("store"))?;
        write(&path("file"))?;
        if round > 0 {
            for (times, time) in times.iter_mut().zip([copy, put, hash, adopt, materialise]) {
                times.push(time);
            }
        }
    }
    let median = |times: &[f64]| {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let [copy, put, hash, adopt, materialise] = times.each_ref().map(|times| median(times));
    println!("1 GiB, median of {REPEATS}           ms   ratio");
    println!("cp --reflink=never       {:>8.1}", 1e3 * copy);
    println!("Store::put_file          {:>8.1}    {:.2}", 1e3 * put, put / copy);
    println!("blake3, mapped, parallel {:>8.1}", 1e3 * hash);
    println!("Store::adopt_file        {:>8.1}    {:.2}", 1e3 * adopt, adopt / hash);
    println!("Store::materialise again {:>8.1}", 1e3 * materialise);
    println!("peak memory of put_file  {peak:>8} MB");
    Ok(())
}

fn timed(work: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}
