//! Finding the program in a response.

/// The last fenced block, or where there is none the whole text.
#[must_use]
pub fn extract(response: &str) -> String {
    let mut found: Option<String> = None;
    let mut open: Option<Vec<&str>> = None;
    for line in response.lines() {
        let fence = line.trim_start().starts_with("```");
        match (&mut open, fence) {
            (None, true) => open = Some(Vec::new()),
            (Some(lines), true) => {
                found = Some(lines.join("\n") + "\n");
                open = None;
            }
            (Some(lines), false) => lines.push(line),
            (None, false) => {}
        }
    }
    // A block that the token limit cut off.
    let cut = open.filter(|lines| !lines.is_empty()).map(|lines| lines.join("\n") + "\n");
    found.or(cut).unwrap_or_else(|| response.to_owned())
}
