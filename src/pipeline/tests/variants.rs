use super::*;

#[test]
fn variants_and_grid_are_read_in_the_order_of_the_file() {
    let text = format!(
        "{GOOD}variants: {{b: , hot: {{iteration.explore.temperature: [1.5], carry.optimizer: null}}}}\n\
         grid: {{iteration.search.n_star: [2, 4], seed: [1, 2]}}\n"
    );
    assert!(parse(&text, &[]).is_ok());
    let (Variations { variants, grid, seeds, lines }, _) =
        Pipeline::variations(&text, Path::new("math.yaml"));
    let texts = |changes: &[Change]| changes.iter().map(Change::text).collect::<Vec<_>>();
    assert_eq!((variants[0].0.as_str(), variants[0].1.len()), ("b", 0));
    assert_eq!(texts(&variants[1].1), ["iteration.explore.temperature=[1.5]", "carry.optimizer=null"]);
    assert_eq!(grid[0].path, "iteration.search.with.n_star");
    assert_eq!(texts(&grid[0].values), ["iteration.search.n_star=2", "iteration.search.n_star=4"]);
    assert_eq!(seeds, [1, 2]);
    assert_eq!(lines, [62..63, 63..usize::MAX]);
}

#[test]
fn what_no_sweep_can_change_is_refused_with_advice() {
    let problems = |text: &str| brief(&format!("{GOOD}{text}\n"), &[]);
    assert_eq!(
        problems("variants:\n  a: {name: x, seed: 3}\n  b: {iteration: {search: {n_star: 1}}}"),
        [
            "63:7 `name` cannot differ between variants | all variants belong to this one pipeline",
            "63:16 `seed` cannot differ between variants | seeds are apart from variants: `grid: {seed: [1, 2, \
             3]}`, or --seeds 3",
            "64:7 `iteration` cannot differ between variants | give the path of one value, for example \
             `iteration.…: …`: the rest stays as it is",
        ]
    );
    assert_eq!(
        problems("variants:\n  a: {search.n_star: 1}\n  a: {}\n  c: {carry.x: y, carry.x: z}\n  d: 3"),
        [
            "63:7 unknown section `search` | did you mean `iteration.search.n_star`?",
            "64:3 `a` is given twice in `variants` | first given in line 63; remove or rename one of them",
            "65:19 `x` is given twice in `variants.c.carry` | first given in line 65; remove or rename one of them",
            "66:6 `d`: expected a mapping of `key.path: value`, found the number `3`",
        ]
    );
    assert_eq!(
        problems("grid: {iterations: 3, iteration.search.n_star: [1, 1], iteration.search.with.n_star: [2]}"),
        [
            "62:20 `iterations`: expected a list of values, found the number `3` | for one value write \
             `iterations: [3]`",
            "62:52 1 is given twice",
            "62:56 `iteration.search.with.n_star` is given twice",
        ]
    );
}

#[test]
fn a_variant_may_begin_with_another_that_begins_with_a_third() {
    let text = format!(
        "{GOOD}variants:\n  a: &a {{iterations: 1}}\n  b: &b {{<<: *a, carry.optimizer: null}}\n  \
         c: {{<<: *b, iteration.search.n_star: 1}}\n"
    );
    let (Variations { variants, .. }, problems) = Pipeline::variations(&text, Path::new("math.yaml"));
    assert_eq!(problems, []);
    let mut texts: Vec<String> = variants[2].1.iter().map(Change::text).collect();
    texts.sort();
    assert_eq!(texts, ["carry.optimizer=null", "iteration.search.n_star=1", "iterations=1"]);
}
