//! Every method of the paper is the same file with a few values changed.

use crate::support::{Space, results, tiny_results};

const FIXED: [&str; 2] =
    ["iteration.explore.temperature=[1.0]", "iteration.search.thresholds={from: 0, to: 0, by: 1}"];

/// Digest of what a run with these overrides trained in iteration `index`.
fn trained(space: &Space, more: &[&str], index: usize, output: &str) -> String {
    let summary = space.tiny(&[&FIXED[..], more].concat()).summary();
    let row = &summary["iterations"][index];
    assert_eq!((row["temperature"].as_f64(), row["threshold"].as_f64()), (Some(1.0), Some(0.0)));
    results(&summary)[&format!("iteration[{index}].train.{output}")].clone()
}

#[test]
fn online_iterative_and_rest_em_share_the_first_iteration_and_part_in_the_second() {
    let space = Space::with_tiny();
    let online = |index, output| trained(&space, &[], index, output);
    let iterative = |index, output| trained(&space, &["carry.optimizer=null"], index, output);
    let rest_em = |index, output| {
        trained(&space, &["carry.optimizer=null", "iteration.train.policy=sft.policy"], index, output)
    };
    assert_eq!(online(0, "policy"), iterative(0, "policy"));
    assert_eq!(online(0, "policy"), rest_em(0, "policy"));
    let second = [online(1, "policy"), iterative(1, "policy"), rest_em(1, "policy")];
    assert_ne!(second[0], second[1], "Online RFT inherits the optimizer, Iterative RFT does not");
    assert_ne!(second[1], second[2], "ReST-EM starts from the initial policy");
    assert_ne!(second[0], tiny_results()["iteration[1].train.policy"], "B-STaR chooses its configuration");
}
