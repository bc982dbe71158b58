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

/// Matrices split for each of the units that this processor has, whichever would be chosen.
fn splits(matrix: &Tensor) -> Vec<Split> {
    let source = source(matrix).unwrap();
    let tiles = Tiles::take().map(|unit| Blocks::Tiles(whole(&unit, &source)));
    let vectors = Vectors::find().map(|unit| Blocks::Vectors(whole(&unit, &source)));
    let split = |blocks| Split { blocks, outputs: source.rows, inputs: source.depth };
    tiles.into_iter().chain(vectors).map(split).collect()
}

#[test]
fn products_are_as_exact_as_those_of_single_precision() {
    for [rows, columns, depth] in SIZES {
        let (x, matrix) = (random(&[rows, depth]), random(&[columns, depth]));
        for matrix in [&matrix, &matrix.tr().contiguous().tr()] {
            for split in splits(matrix) {
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
    for split in splits(&matrix) {
        let all = split.product(&x);
        for (start, count) in [(0, 1), (7, 16), (40, 33), (256, 44), (1, 299)] {
            let part = split.product(&x.narrow(0, start, count));
            assert!(part.equal(&all.narrow(0, start, count)), "{start} {count}");
        }
    }
}

#[test]
fn the_matrix_unit_splits_both_sides_in_a_product() {
    if Tiles::take().is_none() {
        skipped("this processor has no matrix unit");
        return;
    }
    for [rows, columns, depth] in SIZES {
        let (x, matrix) = (random(&[rows, depth]), random(&[columns, depth]));
        if rows < LEAST as i64 {
            assert!(mm(&x, &matrix.tr()).is_none());
            continue;
        }
        let found = Split::new(&matrix).unwrap().product(&x);
        // All ways in which the two sides may lie in memory.
        for left in [x.shallow_clone(), x.tr().contiguous().tr()] {
            for right in [matrix.tr(), matrix.tr().contiguous()] {
                assert!(mm(&left, &right).unwrap().equal(&found));
                let sums = random(&[rows, columns + 7]);
                let part = sums.narrow(1, 3, columns);
                let expected = &part + &found;
                assert!(addmm(&part, &left, &right));
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
