//! A table for people: text to the left, figures to the right. Also valid Markdown.

use std::fmt::Write as _;

/// Lays out `rows` below `head`. All columns from the index `figures` on are aligned to the right.
pub(crate) fn table(head: &[&str], figures: usize, rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|name| name.chars().count())).max().unwrap_or_default().max(3)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            _ = match column < figures {
                true => write!(text, "| {cell:<width$} "),
                false => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
    };
    line(&mut head.iter().copied());
    let rules: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(column, width)| if column < figures { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) })
        .collect();
    line(&mut rules.iter().map(String::as_str));
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [vec!["raw".to_owned(), "87 µs".to_owned()], vec!["gRPC".to_owned(), "1.2 ms".to_owned()]];
        assert_eq!(
            table(&["way", "p50"], 1, &rows),
            "| way  |    p50 |\n| ---- | -----: |\n| raw  |  87 µs |\n| gRPC | 1.2 ms |\n"
        );
    }
}
