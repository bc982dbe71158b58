use super::super::tests::random;
use super::*;
use crate::config::tests::skipped::skipped;

/// The largest difference to the product of 64-bit numbers, and that of libtorch's product.
fn errors(found: &Tensor, left: &Tensor, right: &Tensor) -> [f64; 2] {
    let exact = left.to_kind(Kind::Double).mm(&right.to_kind(Kind::Double));
    [found, &left.mm(right)].map(|found| (found.to_kind(Kind::Double) - &exact).abs().max().double_value(&[]))
}

// Sides that fill blocks and sides that do not, and depths of more than one run of blocks.
const SIZES: [[i64; 3]; 5] =
    [[256, 128, 128], [130, 129, 161], [1, 1000, 800], [300, 133, 1700], [517, 4200, 128]];

/// The units that this processor has, whichever would be chosen.
fn units() -> Vec<Units> {
    let tiles = Tiles::take().map(Units::Tiles);
    tiles.into_iter().chain(Vectors::find().map(Units::Vectors)).collect()
}

#[test]
fn products_are_as_exact_as_those_of_single_precision() {
    for [rows, columns, depth] in SIZES {
        let (x, matrix) = (random(&[rows, depth]), random(&[columns, depth]));
        for matrix in [&matrix, &matrix.tr().contiguous().tr()] {
            for unit in units() {
                let split = Split::of(&source(matrix).unwrap(), &unit);
                let [ours, theirs] = errors(&split.product(&x), &x, &matrix.tr());
                // Libtorch sums single rows in more parts.
                assert!(ours <= theirs * 3.0, "{rows} {columns} {depth}: {ours} {theirs}");
            }
        }
    }
}

#[test]
fn a_row_has_one_product_whatever_is_beside_it() {
    let (x, matrix) = (random(&[300, 800]), random(&[200, 800]));
    for unit in units() {
        let split = Split::of(&source(&matrix).unwrap(), &unit);
        let all = split.product(&x);
        for (start, count) in [(0, 1), (7, 16), (40, 33), (256, 44), (1, 299)] {
            let part = split.product(&x.narrow(0, start, count));
            assert!(part.equal(&all.narrow(0, start, count)), "{start} {count}");
        }
    }
}

#[test]
fn products_that_split_both_sides_are_those_with_a_split_matrix() {
    let units = units();
    if units.is_empty() {
        skipped("this processor has neither a matrix unit nor AVX2");
    }
    for ([rows, columns, depth], unit) in
        SIZES.into_iter().flat_map(|size| units.iter().map(move |unit| (size, unit)))
    {
        let (x, matrix) = (random(&[rows, depth]), random(&[columns, depth]));
        if rows < LEAST as i64 {
            assert!(Sides::of(&x, &matrix.tr()).is_none());
            continue;
        }
        let found = Split::of(&source(&matrix).unwrap(), unit).product(&x);
        // All ways in which the two sides may lie in memory.
        for left in [x.shallow_clone(), x.tr().contiguous().tr()] {
            for right in [matrix.tr(), matrix.tr().contiguous()] {
                assert!(Sides::of(&left, &right).unwrap().product(unit).unwrap().equal(&found));
                let sums = random(&[rows, columns + 7]);
                let part = sums.narrow(1, 3, columns);
                let expected = &part + &found;
                assert!(Sides::of(&left, &right).unwrap().add(&part, unit).is_some());
                assert!(part.allclose(&expected, 1e-5, 1e-4, false));
            }
        }
    }
}

#[test]
fn small_matrices_and_other_numbers_are_left_to_others() {
    let x = random(&[200, 200]);
    assert!(mm(&x.narrow(1, 0, 100), &x.narrow(0, 0, 100)).is_none());
    assert!(Split::new(&x.narrow(0, 0, 100)).is_none());
    assert!(mm(&x.to_kind(Kind::Double), &x.to_kind(Kind::Double)).is_none());
    assert!(!addmm(&random(&[200, 100]), &x, &x.narrow(1, 0, 100)));
}
