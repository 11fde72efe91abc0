//! What a person sees while the lab works: spinners on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where progress goes. Always standard error: standard output is for results.
#[derive(Clone, Debug)]
pub struct Progress {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Silent,
    Lines,
    Bars(MultiProgress),
}

impl Progress {
    /// Spinners if standard error is a terminal, lines otherwise.
    pub fn auto() -> Self {
        let kind = if std::io::stderr().is_terminal() {
            Kind::Bars(MultiProgress::new())
        } else {
            Kind::Lines
        };
        Self { kind }
    }

    /// Nothing at all.
    pub fn silent() -> Self {
        Self { kind: Kind::Silent }
    }

    /// Draws into somebody else's set of bars.
    pub fn within(bars: MultiProgress) -> Self {
        Self {
            kind: Kind::Bars(bars),
        }
    }

    /// Says one line, above the spinners if there are any.
    pub fn say(&self, line: &str) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Lines => eprintln!("{line}"),
            // Fails only if the terminal is gone.
            Kind::Bars(bars) => drop(bars.println(line)),
        }
    }

    /// Starts an item of work; [`Item::done`] ends it, dropping it means that it failed.
    pub fn item(&self, name: &str) -> Item {
        let spinner = match &self.kind {
            Kind::Silent => None,
            Kind::Lines => {
                eprintln!("{name} …");
                None
            }
            Kind::Bars(bars) => {
                let style = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}")
                    .expect("the template is a constant");
                let spinner = bars.add(ProgressBar::new_spinner().with_style(style));
                spinner.set_message(name.to_owned());
                spinner.enable_steady_tick(Duration::from_millis(120));
                Some(spinner)
            }
        };
        Item {
            progress: self.clone(),
            name: name.to_owned(),
            started: Instant::now(),
            spinner,
            ended: false,
        }
    }
}

/// One item of work under way.
#[derive(Debug)]
pub struct Item {
    progress: Progress,
    name: String,
    started: Instant,
    spinner: Option<ProgressBar>,
    ended: bool,
}

impl Item {
    /// The item is complete.
    pub fn done(mut self) {
        self.end("done");
    }

    /// Changes what the spinner says beside the name.
    pub fn note(&self, note: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(format!("{}: {note}", self.name));
        }
    }

    fn end(&mut self, how: &str) {
        self.ended = true;
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f32();
        self.progress
            .say(&format!("{} {how}, {seconds:.1} s", self.name));
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        if !self.ended {
            self.end("failed");
        }
    }
}
