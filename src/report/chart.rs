//! Drawings for reports: curves and maps, as SVG.

use super::html::Point;

/// One curve; a value that is absent leaves a gap.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) values: Vec<Option<f64>>,
}

const COLOURS: [&str; 10] = [
    "#2f6fde", "#d9552b", "#2a9d5c", "#9b51c9", "#c79a00", "#0fa3b1", "#c2356b", "#6b7280", "#7aa100",
    "#8c5a2b",
];

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 210.0;

/// Room for labels: left, top, right, bottom.
const MARGIN: [f64; 4] = [44.0, 12.0, 10.0, 26.0];

/// Text that is safe in HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A chart with its caption and legend; `None` when no curve has a value.
pub(super) fn curves(caption: &str, positions: &[String], curves: &[Curve]) -> Option<String> {
    let curves: Vec<&Curve> =
        curves.iter().filter(|curve| curve.values.iter().any(Option::is_some)).collect();
    let values = || curves.iter().flat_map(|curve| &curve.values).flatten().copied();
    let (low, high) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    // A flat curve lies in the middle.
    let room = if high - low > 1e-9 { (high - low) * 0.06 } else { 0.5 * high.abs().max(0.1) };
    let (low, high) = (low - room, high + room);
    let [left, top, right, bottom] = MARGIN;
    let (inner_width, inner_height) = (WIDTH - left - right, HEIGHT - top - bottom);
    #[expect(clippy::cast_precision_loss, reason = "a number of positions")]
    let x = |index: usize| left + inner_width * index as f64 / (positions.len().max(2) - 1) as f64;
    let y = |value: f64| top + inner_height * (high - value) / (high - low);
    let mut svg = opening(caption);
    for share in [0.0, 0.5, 1.0] {
        let value = low + (high - low) * share;
        let at = y(value);
        svg.push_str(&format!(
            "<path class=\"axis\" d=\"M{left} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            WIDTH - right,
            left - 5.0,
            at + 4.0,
            short(value)
        ));
    }
    let every = positions.len().div_ceil(10).max(1);
    for (index, position) in positions.iter().enumerate().step_by(every) {
        svg.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(index),
            HEIGHT - 8.0,
            escaped(position)
        ));
    }
    let mut legend = String::new();
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        for piece in curve.values.iter().enumerate().collect::<Vec<_>>().split(|(_, value)| value.is_none()) {
            let points: Vec<(f64, f64)> =
                piece.iter().filter_map(|(index, value)| Some((x(*index), y((**value)?)))).collect();
            let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            if line.len() > 1 {
                svg.push_str(&format!(
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                    line.join(" ")
                ));
            }
            for (x, y) in points {
                svg.push_str(&format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>"));
            }
        }
        legend
            .push_str(&format!("<span><i style=\"background:{colour}\"></i>{}</span>", escaped(&curve.name)));
    }
    let caption = escaped(caption);
    Some(format!(
        "<figure><figcaption>{caption}</figcaption>{svg}</svg><figcaption class=\"legend\">{legend}</figcaption></figure>\n"
    ))
}

fn opening(caption: &str) -> String {
    let caption = escaped(caption);
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{caption}\">")
}

/// A number in the space of an axis.
fn short(value: f64) -> String {
    let text = if value.abs() < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") };
    if text == "-0.00" { "0.00".to_owned() } else { text }
}

/// A cell for every configuration, darker where the balance score is higher, relative to the map's own range.
pub(super) fn heat_map(caption: &str, points: &[Point], chosen: Option<(f64, f64)>) -> String {
    let ordered = |value: fn(&Point) -> f64| {
        let mut values: Vec<f64> = points.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        values
    };
    let (temperatures, thresholds) = (ordered(|point| point.temperature), ordered(|point| point.threshold));
    let scores = || points.iter().map(|point| point.balance_score);
    let (low, high) = (scores().reduce(f64::min).unwrap_or(0.0), scores().reduce(f64::max).unwrap_or(1.0));
    let [left, top, right, bottom] = MARGIN;
    #[expect(clippy::cast_precision_loss, reason = "counts of cells")]
    let cell = (
        (WIDTH - left - right) / temperatures.len().max(1) as f64,
        (HEIGHT - top - bottom) / thresholds.len().max(1) as f64,
    );
    #[expect(clippy::cast_precision_loss, reason = "counts of cells")]
    let corner = |temperature: f64, threshold: f64| {
        let column = temperatures.iter().position(|value| value.total_cmp(&temperature).is_eq())?;
        let row = thresholds.iter().rev().position(|value| value.total_cmp(&threshold).is_eq())?;
        Some((left + cell.0 * column as f64, top + cell.1 * row as f64))
    };
    let mut svg = opening(caption);
    for point in points {
        let Some((x, y)) = corner(point.temperature, point.threshold) else { continue };
        let share = if high > low { (point.balance_score - low) / (high - low) } else { 0.5 };
        svg.push_str(&format!("<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{:.2}\" height=\"{:.2}\" fill=\"{}\"><title>t {} · τ {} · {:.3}</title></rect>",
            cell.0 + 0.05,
            cell.1 + 0.05,
            shade(share),
            point.temperature,
            point.threshold,
            point.balance_score
        ));
    }
    if let Some((x, y)) = chosen.and_then(|(temperature, threshold)| corner(temperature, threshold)) {
        svg.push_str(&format!("<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{:.2}\" height=\"{:.2}\" fill=\"none\" stroke=\"#d9552b\" stroke-width=\"2.5\"/>",
            cell.0, cell.1
        ));
    }
    labels(&mut svg, &temperatures, &thresholds, cell);
    let caption = escaped(caption);
    format!(
        "<figure><figcaption>{caption}: {low:.3} to {high:.3}; τ over t</figcaption>{svg}</svg></figure>\n"
    )
}

#[expect(clippy::cast_precision_loss, reason = "counts of cells")]
fn labels(svg: &mut String, temperatures: &[f64], thresholds: &[f64], cell: (f64, f64)) {
    let [left, top, _, _] = MARGIN;
    for (index, value) in temperatures.iter().enumerate().step_by(temperatures.len().div_ceil(8).max(1)) {
        svg.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
            left + cell.0 * (index as f64 + 0.5),
            HEIGHT - 8.0
        ));
    }
    for (index, value) in thresholds.iter().rev().enumerate().step_by(thresholds.len().div_ceil(7).max(1)) {
        svg.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 5.0,
            top + cell.1 * (index as f64 + 0.5) + 4.0,
            short(*value)
        ));
    }
}

/// From pale to dark blue.
fn shade(share: f64) -> String {
    let (pale, dark) = ([238.0, 243.0, 252.0], [18.0, 52.0, 120.0]);
    let mix = |index: usize| pale[index] + (dark[index] - pale[index]) * share.clamp(0.0, 1.0);
    format!("rgb({:.0},{:.0},{:.0})", mix(0), mix(1), mix(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_in_a_curve_parts_it() {
        let positions: Vec<String> = (0..5).map(|index| index.to_string()).collect();
        let curve = |values: [Option<f64>; 5]| Curve { name: "one".to_owned(), values: values.to_vec() };
        let whole = curves("a", &positions, &[curve([Some(0.1); 5])]).unwrap_or_default();
        assert_eq!((whole.matches("<polyline").count(), whole.matches("<circle").count()), (1, 5));
        let parted = curves("a", &positions, &[curve([Some(0.1), Some(0.2), None, Some(0.4), Some(0.3)])]);
        assert_eq!(parted.unwrap_or_default().matches("<polyline").count(), 2);
        assert_eq!(curves("a", &positions, &[curve([None; 5])]), None);
    }

    #[test]
    fn maps_have_a_cell_a_configuration_and_frame_the_choice() {
        let point = |temperature, threshold, balance_score| Point { temperature, threshold, balance_score };
        let points = [point(0.5, 0.0, 0.1), point(0.5, 0.1, 0.2), point(1.0, 0.0, 0.3), point(1.0, 0.1, 0.4)];
        let map = heat_map("i", &points, Some((1.0, 0.1)));
        assert_eq!(map.matches("<title>").count(), 4);
        assert_eq!(map.matches("stroke-width=\"2.5\"").count(), 1);
        assert!(map.contains("0.100 to 0.400") && map.contains("rgb(18,52,120)"), "{map}");
        assert!(!heat_map("i", &points, Some((9.0, 0.1))).contains("stroke-width"));
    }
}
