//! What this machine refuses the runner for now, such as room on its disk: said once, and tried again with the pauses of a
//! peer that crashes. The peers go on meanwhile.

use tokio::time::Instant;

use crate::runner::child::pause;

/// Something that went wrong, perhaps several times in a row.
#[derive(Debug, Default)]
pub(super) struct Setback {
    times: u32,
    said: String,
    until: Option<Instant>,
}

impl Setback {
    /// It may be tried now.
    pub(super) fn may_try(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }

    /// It went wrong again. A sentence, unless that was said before.
    pub(super) fn again(&mut self, reason: String) -> Option<String> {
        self.times = self.times.saturating_add(1);
        self.until = Some(Instant::now() + pause(self.times));
        let news = self.said != reason;
        self.said.clone_from(&reason);
        news.then(|| format!("{reason} (it is tried again)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reason_is_said_once_and_pauses_grow() {
        let mut setback = Setback::default();
        assert!(setback.may_try());
        let before = Instant::now();
        let said = setback.again("no room".into()).unwrap();
        assert_eq!(said, "no room (it is tried again)");
        let first = setback.until.unwrap();
        assert!(first >= before + pause(1));
        let between = Instant::now();
        assert_eq!(setback.again("no room".into()), None);
        assert!(setback.until.unwrap() >= between + pause(2));
        assert!(setback.again("no disk".into()).is_some());
    }
}
