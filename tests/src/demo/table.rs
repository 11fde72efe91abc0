//! The table at the end: each step, its time, messages confirmed and found.

use std::time::Duration;

use anyhow::Result;
use comfy_table::{CellAlignment, Table as Drawing, presets};

use super::options::Mode;

/// What a step came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Messages confirmed so far, if it counted.
    pub confirmed: Option<u64>,
    /// How many of them are there.
    pub found: Option<u64>,
    /// What else is worth a word.
    pub remark: String,
}

impl Outcome {
    /// Nothing was counted.
    #[must_use]
    pub fn remark(text: impl Into<String>) -> Self {
        Self {
            remark: text.into(),
            ..Self::default()
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    step: String,
    time: Option<Duration>,
    result: &'static str,
    outcome: Outcome,
}

impl Row {
    /// The line of a step that was run.
    #[must_use]
    pub fn of(step: &str, time: Duration, result: &Result<Outcome>) -> Self {
        let (result, outcome) = match result {
            Ok(outcome) => ("held", outcome.clone()),
            Err(_) => ("FAILED", Outcome::default()),
        };
        Self {
            step: step.to_owned(),
            time: Some(time),
            result,
            outcome,
        }
    }

    /// The line of a step that was not.
    #[must_use]
    pub fn not_run(step: &str) -> Self {
        Self {
            step: step.to_owned(),
            time: None,
            result: "not run",
            outcome: Outcome::default(),
        }
    }
}

/// The table.
#[derive(Clone, Debug)]
pub struct Table {
    mode: Mode,
    rows: Vec<Row>,
}

impl Table {
    /// Without a line yet.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            rows: Vec::new(),
        }
    }

    /// Adds a line.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Number of lines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut drawing = Drawing::new();
        drawing.load_style(presets::UTF8_FULL_CONDENSED);
        drawing.set_header(["step", "", "time", "confirmed", "found", ""]);
        for row in &self.rows {
            let number = |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
            let time = row
                .time
                .map_or_else(String::new, |time| format!("{:.1} s", time.as_secs_f32()));
            drawing.add_row([
                row.step.clone(),
                row.result.to_owned(),
                time,
                number(row.outcome.confirmed),
                number(row.outcome.found),
                row.outcome.remark.clone(),
            ]);
        }
        for column in drawing.column_iter_mut().skip(2).take(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mode = drqm_api::names::mode(self.mode.spec());
        format!("{mode} replication\n{drawing}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_shows_what_it_came_to() {
        let mut table = Table::new(Mode::Synchronous);
        let outcome = Outcome {
            confirmed: Some(2_000),
            found: Some(2_000),
            remark: "ok".into(),
        };
        table.add(Row::of("use", Duration::from_millis(2_340), &Ok(outcome)));
        table.add(Row::of(
            "switch",
            Duration::ZERO,
            &Err(anyhow::anyhow!("no")),
        ));
        table.add(Row::not_run("delete"));
        let text = table.render();
        for part in [
            "Synchronous",
            "2.3 s",
            "2000",
            "FAILED",
            "not run",
            "delete",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
