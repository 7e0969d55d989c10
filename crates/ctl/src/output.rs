//! What a verb has to say, in both forms: a document and text for people.

use crate::terminal::printable;
use serde::Serialize;
use serde_json::Value;

/// A verb's outcome.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    /// The document.
    pub(crate) json: Value,
    /// The same for people, ending in a line end unless empty.
    pub(crate) text: String,
    /// The exit code.
    pub(crate) exit: u8,
}

impl Report {
    pub(crate) fn new(document: &impl Serialize, text: impl Into<String>) -> Self {
        let json = serde_json::to_value(document).unwrap_or(Value::Null);
        let mut text = text.into();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        Self { json, text, exit: crate::exit::OK }
    }
    pub(crate) fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }
}

/// Lays rows out in columns. A title that begins with `>` is of numbers, set to the right.
pub(crate) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let right: Vec<bool> = titles.iter().map(|t| t.starts_with('>')).collect();
    let head = titles.iter().map(|t| t.trim_start_matches('>').to_owned()).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> =
        std::iter::once(head).chain(rows.iter().map(|row| row.iter().map(|cell| printable(cell).replace('\n', " ")).collect())).collect();
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).zip(&right);
        let line: Vec<String> =
            cells.map(|((cell, width), right)| if *right { format!("{cell:>width$}") } else { format!("{cell:width$}") }).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A number of bytes for people: `1.5 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (0..units.len() - 1).take_while(|i| bytes >> (10 * (i + 1)) > 0).count();
    match step {
        0 => format!("{bytes} B"),
        _ => format!("{:.1} {}", bytes as f64 / (1u64 << (10 * step)) as f64, units[step]),
    }
}

/// A span of time for people: `3h 20m`.
#[must_use]
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A number, or a dash where it is not known.
pub(crate) fn known(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |n| n.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["ann".to_owned(), "7".to_owned(), "x".to_owned()], vec!["b\x1b".to_owned(), "12".to_owned(), String::new()]];
        assert_eq!(table(&["USER", ">MSGS", "NOTE"], &rows), "USER  MSGS  NOTE\nann      7  x\nb\u{fffd}      12\n");
    }

    #[test]
    fn sizes_and_ages() {
        assert_eq!([size(0), size(1023), size(1536), size(u64::MAX)], ["0 B", "1023 B", "1.5 KiB", "16777216.0 TiB"]);
        assert_eq!([age(5), age(61), age(7325), age(90_000)], ["5s", "1m 1s", "2h 2m", "1d 1h"]);
    }
}
