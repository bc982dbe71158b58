//! The official grader: what the published code was seen to do.

use crate::grade::{mathd_form, official, prm800k_form};

#[test]
fn the_official_grader_is_as_strict_and_as_odd_as_published() {
    for (given, truth) in [
        ("1/2", "\\frac{1}{2}"),
        (".5", "\\frac12"),
        ("1,000", "1000.0"),
        ("50\\%", "50"),
        ("x=5", "5"),
        ("2 and 3", "2,3"),
        ("12 cm^2", "12"),
        ("\\boxed{5}", "5"),
        ("3\\frac{1}{2}", "3 1/2"),
        ("day", ""),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3, \\pi/2)"),
    ] {
        assert!(official(given, truth), "{given} and {truth}");
    }
    for (given, truth) in [
        ("\\frac{2}{4}", "1/2"),
        ("2+3", "5"),
        ("1.50", "1.5"),
        ("\\sqrt{12}", "2\\sqrt{3}"),
        ("(1,2)", "[1,2]"),
        ("2,3", "3,2"),
        ("1 million", "1000000"),
        ("\\text{(A)}", "A"),
        ("10^{2}", "100"),
        ("", "5"),
    ] {
        assert!(!official(given, truth), "{given} and {truth}");
    }
    assert_eq!(mathd_form("3 1/2"), "\\frac{31}{2}");
    assert_eq!(prm800k_form("3 1/2"), "3+1/2");
    assert_eq!(prm800k_form("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"), "[1;2]");
}
