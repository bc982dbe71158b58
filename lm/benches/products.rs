//! Matrix products of one thread: libtorch's, and those of `kernels`, with the right side split before and in each product.
//!
//!     OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 cargo bench -p bstar-lm --bench products

#![expect(clippy::print_stdout, reason = "a table")]

use std::time::Instant;

use bstar_lm::kernels::{Split, mm};
use tch::{Device, Kind, Tensor};

/// Rows, columns, and numbers that are summed.
const SIZES: [[i64; 3]; 12] = [
    [512, 96, 96],
    [512, 288, 96],
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

/// Seconds of the fastest of seven.
fn fastest(mut act: impl FnMut() -> Tensor) -> f64 {
    let mut time = || {
        let began = Instant::now();
        drop(act());
        began.elapsed().as_secs_f64()
    };
    (0..7).map(|_| time()).fold(f64::MAX, f64::min)
}

fn main() {
    tch::set_num_threads(1);
    println!("| rows × columns × depth | libtorch | split before | both split | error | libtorch's error |");
    println!("|---|---|---|---|---|---|");
    for [rows, columns, depth] in SIZES {
        let random = |rows: i64| Tensor::randn([rows, depth], (Kind::Float, Device::Cpu));
        let (x, matrix) = (random(rows), random(columns));
        let Some(split) = Split::new(&matrix) else {
            println!("this processor has no matrix unit");
            return;
        };
        let exact = x.to_kind(Kind::Double).mm(&matrix.to_kind(Kind::Double).tr());
        let error = |found: &Tensor| (found.to_kind(Kind::Double) - &exact).abs().max().double_value(&[]);
        let speed = |seconds: f64| (2 * rows * columns * depth) as f64 / seconds / 1e9;
        let time = |act: &dyn Fn() -> Tensor| {
            let b = Instant::now();
            drop(act());
            b.elapsed().as_secs_f64()
        };
        let mut all: Vec<[f64; 3]> = (0..60)
            .map(|_| {
                [
                    time(&|| x.mm(&matrix.tr())),
                    time(&|| split.product(&x)),
                    time(&|| mm(&x, &matrix.tr()).unwrap_or_default()),
                ]
            })
            .collect();
        let _ = &mut all;
        let col = |i: usize| {
            let mut v: Vec<f64> = all.iter().map(|a| a[i]).collect();
            v.sort_by(f64::total_cmp);
            v
        };
        let (c0, c1, c2) = (col(0), col(1), col(2));
        println!("median: {:.0} {:.0} {:.0}", speed(c0[30]), speed(c1[30]), speed(c2[30]));
        let (theirs, before, both) = (c0[0], c1[0], c2[0]);
        println!(
            "| {rows} × {columns} × {depth} | {:.0} | {:.0} | {:.0} | {:.1e} | {:.1e} |",
            speed(theirs),
            speed(before),
            speed(both),
            error(&split.product(&x)),
            error(&x.mm(&matrix.tr())),
        );
    }
}
