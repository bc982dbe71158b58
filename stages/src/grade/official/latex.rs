//! LaTeX to text as the published grader's library does it, for what answers hold.

use super::super::lex::braced;

/// Symbols and what they become.
const SYMBOLS: [(&str, &str); 38] = [
    ("pi", "pi"),
    ("infty", "inf"),
    ("cup", "U"),
    ("cdot", "*"),
    ("times", "*"),
    ("cap", "∩"),
    ("pm", "±"),
    ("mp", "∓"),
    ("le", "≤"),
    ("leq", "≤"),
    ("ge", "≥"),
    ("geq", "≥"),
    ("ne", "≠"),
    ("neq", "≠"),
    ("in", "∈"),
    ("alpha", "α"),
    ("beta", "β"),
    ("gamma", "γ"),
    ("delta", "δ"),
    ("theta", "θ"),
    ("lambda", "λ"),
    ("mu", "μ"),
    ("phi", "ϕ"),
    ("omega", "ω"),
    ("circ", "∘"),
    ("angle", "∠"),
    ("approx", "≈"),
    ("emptyset", "∅"),
    ("varnothing", "∅"),
    ("ldots", "…"),
    ("cdots", "⋯"),
    ("quad", "  "),
    ("qquad", "    "),
    ("left", ""),
    ("right", ""),
    ("displaystyle", ""),
    ("to", "→"),
    ("div", "÷"),
];

/// Functions keep their names.
const FUNCTIONS: [&str; 12] =
    ["sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "arcsin", "arccos", "arctan"];

/// The text of LaTeX, with fractions as `a/b` and roots as `sqrt(x)`.
pub(super) fn to_text(latex: &str) -> String {
    let latex = latex.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac").replace("\\frac", " \\frac");
    text(&latex, 0).trim().to_owned()
}

const MAX_DEPTH: u32 = 40;

fn text(latex: &str, depth: u32) -> String {
    let mut result = String::with_capacity(latex.len());
    if depth > MAX_DEPTH {
        return latex.to_owned();
    }
    let mut rest = latex;
    while let Some(first) = rest.chars().next() {
        if first != '\\' {
            match first {
                '{' | '}' => {}
                '~' => result.push(' '),
                '·' | '×' => result.push('*'),
                _ => result.push(first),
            }
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let name = &rest[1..];
        let length = name.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (name, after) = name.split_at(length);
        rest = match name {
            "" => {
                let escaped = after.chars().next();
                match escaped {
                    Some('\\') => result.push('\n'),
                    Some(',' | ';' | ':' | ' ') => result.push(' '),
                    Some('!' | '(' | ')' | '[' | ']') | None => {}
                    Some(other) => result.push(other),
                }
                &after[escaped.map_or(0, char::len_utf8)..]
            }
            "frac" => {
                let (top, after) = argument(after);
                let (bottom, after) = argument(after);
                result.push_str(&format!("{}/{}", text(top, depth + 1), text(bottom, depth + 1)));
                after
            }
            "sqrt" => {
                let after = after.trim_start();
                let after = match after.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
                    Some((_, after)) => after,
                    None => after,
                };
                let (inner, after) = argument(after);
                result.push_str(&format!("sqrt({})", text(inner, depth + 1)));
                after
            }
            "begin" => {
                let (environment, after) = argument(after);
                let end = format!("\\end{{{environment}}}");
                let (body, after) = after.split_once(&end).unwrap_or((after, ""));
                if environment.ends_with("matrix") || environment == "array" {
                    let row = |row: &str| {
                        row.split('&')
                            .map(|cell| text(cell, depth + 1).trim().to_owned())
                            .collect::<Vec<_>>()
                            .join(" ")
                    };
                    let rows: Vec<String> = body.split("\\\\").map(row).collect();
                    result.push_str(&format!("[ {} ]", rows.join("; ")));
                } else {
                    result.push_str(&text(body, depth + 1));
                }
                after
            }
            _ if FUNCTIONS.contains(&name) => {
                result.push_str(name);
                after.trim_start()
            }
            _ => match SYMBOLS.iter().find(|(symbol, _)| *symbol == name) {
                Some((_, symbol)) => {
                    result.push_str(symbol);
                    after.trim_start()
                }
                // `\text{…}`, `\boxed{…}` and so on become what they hold.
                None => after,
            },
        };
    }
    result
}

fn argument(latex: &str) -> (&str, &str) {
    let trimmed = latex.trim_start();
    match braced(trimmed) {
        Some(found) => found,
        None => trimmed.split_at(trimmed.chars().next().map_or(0, char::len_utf8)),
    }
}
