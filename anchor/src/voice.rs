//! Which alerts are worth a line of the audit log: a node chooses their words, and may choose others each time.

use std::time::{Duration, Instant};

/// Least time between two lines.
const LEAST: Duration = Duration::from_secs(60);

/// What was told of the alerts of one anchor.
#[derive(Debug, Default)]
pub(crate) struct Voice {
    last: Option<Told>,
    /// The last one has not ended.
    open: bool,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    reason: String,
    stopped: bool,
}

impl Voice {
    /// Whether an alert that holds `now` is told now: whether it stops the anchor at once, other words
    /// once a minute.
    pub(crate) fn alert(&mut self, reason: &str, stopped: bool, now: Instant) -> bool {
        let tell = self.last.as_ref().is_none_or(|last| {
            let news = !self.open || last.reason != reason;
            last.stopped != stopped || news && now.duration_since(last.at) >= LEAST
        });
        if tell {
            self.last = Some(Told { at: now, reason: reason.to_owned(), stopped });
            self.open = true;
        }
        tell
    }

    /// Whether the end of an alert is told: where the alert was.
    pub(crate) fn recovered(&mut self) -> bool {
        std::mem::take(&mut self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_change_at_each_look_are_a_line_a_minute_and_a_stop_is_told_at_once() {
        let (mut voice, start) = (Voice::default(), Instant::now());
        let told = (0..3000_u64).filter(|poll| {
            let now = start + Duration::from_secs(poll * 2);
            voice.alert(&format!("words {poll}"), false, now)
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            (0..100).map(|minute| minute * 30).collect::<Vec<_>>()
        );
        let now = start + Duration::from_secs(5999);
        assert!(voice.alert("words 2999", true, now), "it stops");
        assert!(!voice.alert("words 2999", true, now + LEAST), "and was told");
    }

    #[test]
    fn an_alert_that_comes_and_goes_is_two_lines_a_minute() {
        let (mut voice, start) = (Voice::default(), Instant::now());
        let (mut alerts, mut ends) = (0, 0);
        for poll in 0..3000 {
            alerts += u32::from(voice.alert("away", false, start + Duration::from_secs(poll * 2)));
            ends += u32::from(voice.recovered());
        }
        assert_eq!((alerts, ends), (100, 100));
    }

    #[test]
    fn what_came_too_soon_and_stays_is_told_when_the_minute_is_over() {
        let (mut voice, start) = (Voice::default(), Instant::now());
        assert!(voice.alert("first", false, start));
        assert!(!voice.alert("first", false, start + LEAST), "nothing new");
        assert!(voice.alert("second", false, start + LEAST));
        assert!(!voice.alert("third", false, start + LEAST * 2 - Duration::from_millis(1)));
        assert!(voice.alert("third", false, start + LEAST * 2));
        assert!(voice.recovered() && !voice.recovered());
        assert!(!voice.alert("third", false, start + LEAST * 2 + Duration::from_secs(1)));
        assert!(!voice.recovered(), "its beginning was not told");
        assert!(!voice.alert("third", false, start + LEAST * 2 + Duration::from_secs(2)));
        assert!(voice.alert("third", false, start + LEAST * 3), "it came again, and stays");
    }
}
