//! What a panic does: in one volume's decisions it is caught, so that this volume is fenced and the
//! others go on; anywhere else it ends the process, and the peers see a lost connection.
//!
//! Does not live here: what fencing means ([`crate::driver`]).

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// From here on a panic outside [`caught`] ends the process.
pub(crate) fn install() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        if !CAUGHT.get() {
            std::process::abort();
        }
    }));
}

/// Runs `body`; a panic in it becomes its text. The caller must not use what `body` has changed as
/// if it were whole.
pub(crate) fn caught<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    CAUGHT.set(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    CAUGHT.set(false);
    result.map_err(|payload| text(payload.as_ref()))
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a text")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_text() {
        assert_eq!(caught(|| 7), Ok(7));
        let number = 7;
        assert_eq!(
            caught(|| panic!("number {number}")),
            Err::<(), _>("number 7".to_owned())
        );
        assert_eq!(caught(|| panic!("plain")), Err::<(), _>("plain".to_owned()));
        assert!(!CAUGHT.get());
    }
}
