//! The only place that prints: data to stdout, progress to stderr.
//!
//! Lives here: writing, the table layout, JSON and YAML; the only use of `serde_yaml` in this binary
//! (unmaintained upstream; here it only writes what we made). Does not live here: what a row says
//! (`view`).

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

/// Writes data to stdout. A reader that has gone away (`| head`) is not an error.
pub(crate) fn data(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes one line of progress to stderr; what cannot be written there is lost on purpose.
pub(crate) fn progress(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// kubectl's table: columns as wide as their widest cell, three spaces between, nothing behind the
/// last one.
#[must_use]
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    const GAP: usize = 3;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            let padding = width + GAP - cell.chars().count();
            line.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Pretty JSON with a final newline.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// One YAML document.
pub(crate) fn yaml(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_yaml::to_string(value)?)
}

/// Several YAML documents, as `kubectl apply -f -` reads them.
pub(crate) fn yaml_documents(values: &[impl Serialize]) -> anyhow::Result<String> {
    let documents: Vec<String> = values.iter().map(yaml).collect::<anyhow::Result<_>>()?;
    Ok(documents.join("---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [
            vec!["NAME".to_owned(), "ROLE".to_owned()],
            vec!["a-long-name".to_owned(), String::new()],
        ];
        assert_eq!(table(&rows), "NAME          ROLE\na-long-name\n");
    }

    #[test]
    fn documents_are_separated() {
        let text = yaml_documents(&[1, 2]).expect("numbers can be written");
        assert_eq!(text, "1\n---\n2\n");
    }
}
