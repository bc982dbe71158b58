//! Matrix products of one thread: libtorch's, and those of `kernels`, with the right side split before and in each product.
//!
//!     OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 cargo bench -p bstar-lm --bench products

#![expect(clippy::print_stdout, reason = "a table")]

use std::time::Instant;

use bstar_lm::kernels::{Split, mm};
use tch::{Device, Kind, Tensor};

/// Rows, columns, and numbers that are summed.
const SIZES: [[i64; 3]; 10] = [
    [512, 512, 256],
    [512, 1408, 256],
    [512, 256, 704],
    [512, 4096, 256],
    [512, 768, 768],
    [512, 4096, 768],
    [512, 768, 2048],
    [512, 32_000, 768],
    [1024, 1024, 1024],
    [2048, 768, 2048],
];
/// How often each is made, in turn.
const ROUNDS: usize = 31;

fn main() {
    tch::set_num_threads(1);
    println!("| rows × columns × depth | libtorch | split before | both split | error | libtorch's error |");
    println!("|---|---|---|---|---|---|");
    for [rows, columns, depth] in SIZES {
        let random = |rows: i64| Tensor::randn([rows, depth], (Kind::Float, Device::Cpu));
        let (x, matrix) = (random(rows), random(columns));
        let Some(split) = Split::new(&matrix) else {
            println!("the products of this processor are libtorch's");
            return;
        };
        let theirs = || x.mm(&matrix.tr());
        let before = || split.product(&x);
        let both = || mm(&x, &matrix.tr()).expect("what splits one side splits both");
        let mut seconds = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for (seconds, act) in seconds.iter_mut().zip([&theirs as &dyn Fn() -> Tensor, &before, &both]) {
                let began = Instant::now();
                drop(act());
                seconds.push(began.elapsed().as_secs_f64());
            }
        }
        let [theirs, before, both] = seconds.map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            let speed = |seconds: f64| format!("{:.0}", (2 * rows * columns * depth) as f64 / seconds / 1e9);
            format!("{} ({})", speed(seconds[ROUNDS / 2]), speed(seconds[0]))
        });
        let exact = x.to_kind(Kind::Double).mm(&matrix.to_kind(Kind::Double).tr());
        let error = |found: &Tensor| (found.to_kind(Kind::Double) - &exact).abs().max().double_value(&[]);
        println!(
            "| {rows} × {columns} × {depth} | {theirs} | {before} | {both} | {:.1e} | {:.1e} |",
            error(&split.product(&x)),
            error(&x.mm(&matrix.tr())),
        );
    }
}
