//! Bars and spinners on standard error; nothing when that is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often a spinner turns: fast enough to look alive.
const TURN: Duration = Duration::from_millis(100);

/// A bar for the bytes of `name`: rate and ETA when the size is known, else count and rate. Visible at once.
pub fn transfer(name: &str, size: Option<u64>) -> ProgressBar {
    let bar = match size {
        Some(size) => ProgressBar::new(size).with_style(sized()),
        None => ProgressBar::new_spinner().with_style(style(
            "{spinner} {msg} {binary_bytes} {binary_bytes_per_sec}",
        )),
    };
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(TURN);
    bar
}

/// Gives a bar of [`transfer`] the size it did not know.
pub fn learn_size(bar: &ProgressBar, size: u64) {
    bar.set_style(sized());
    bar.set_length(size);
}

/// A spinner beside a sentence.
pub fn spinner(sentence: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_style(style("{spinner} {wide_msg}"));
    bar.set_message(sentence.to_owned());
    bar.enable_steady_tick(TURN);
    bar
}

/// A bar for so many slots that are handed over, beside a sentence.
pub fn slots(all: u64) -> ProgressBar {
    let bar = ProgressBar::new(all);
    bar.set_style(
        style("[{bar:24}] {pos}/{len} slots ETA {eta}  {wide_msg}").progress_chars("=> "),
    );
    bar.enable_steady_tick(TURN);
    bar
}

fn sized() -> ProgressStyle {
    style("{msg} [{bar:24}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta}")
        .progress_chars("=> ")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this file are well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_well_formed() {
        transfer("a", Some(1)).finish_and_clear();
        let bar = transfer("a", None);
        learn_size(&bar, 7);
        assert_eq!(bar.length(), Some(7));
        spinner("a").finish_and_clear();
        slots(1).finish_and_clear();
    }
}
