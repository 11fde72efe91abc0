//! What a person sees: typed commands and their output on standard output, progress on standard error.
//!
//! Bars and lines share a terminal, so every line goes through here.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use drqm_lab::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where output goes.
#[derive(Clone, Debug)]
pub struct Ui {
    /// `None`: no terminal, plain lines.
    bars: Option<MultiProgress>,
    progress: Progress,
}

impl Ui {
    /// Bars if standard error is a terminal, lines otherwise.
    #[must_use]
    pub fn auto() -> Self {
        if std::io::stderr().is_terminal() {
            let bars = MultiProgress::new();
            Self {
                progress: Progress::within(bars.clone()),
                bars: Some(bars),
            }
        } else {
            Self {
                progress: Progress::auto(),
                bars: None,
            }
        }
    }

    /// The lab's progress, drawn into the same bars.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Prints a line of a result.
    pub fn print(&self, line: &str) {
        let write = || {
            // Nobody reads any more: the program goes on and cleans up all the same.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        };
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// Prints the title of a step.
    pub fn title(&self, title: &str) {
        self.print(&format!("\n=== {title}"));
    }

    /// Prints a command as a person would type it.
    pub fn typed(&self, line: &str) {
        self.print(&format!("$ {line}"));
    }

    /// Says what is going on.
    pub fn say(&self, line: &str) {
        self.progress.say(line);
    }

    /// A bar from 0 to 100 percent.
    #[must_use]
    pub fn percent(&self, name: &str) -> Percent {
        let bar = self.bars.as_ref().map(|bars| {
            let style =
                ProgressStyle::with_template("{msg:40} {bar:40} {percent:>3} % {elapsed:.dim}")
                    .expect("the template is a constant");
            let bar = bars.add(ProgressBar::new(100).with_style(style));
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Percent {
            ui: self.clone(),
            bar,
            name: name.to_owned(),
            said: None,
        }
    }
}

/// A bar under way; it goes when it is dropped.
#[derive(Debug)]
pub struct Percent {
    ui: Ui,
    bar: Option<ProgressBar>,
    name: String,
    said: Option<String>,
}

impl Percent {
    /// Shows how far it is, and a remark.
    pub fn show(&mut self, percent: f64, remark: &str) {
        match &self.bar {
            Some(bar) => {
                // The fraction of a percent is not drawn.
                bar.set_position(percent.clamp(0.0, 100.0) as u64);
                bar.set_message(format!("{}: {remark}", self.name));
            }
            None => {
                let line = format!("{}: {percent:.0} %, {remark}", self.name);
                if self.said.as_ref() != Some(&line) {
                    self.ui.say(&line);
                    self.said = Some(line);
                }
            }
        }
    }
}

impl Drop for Percent {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
