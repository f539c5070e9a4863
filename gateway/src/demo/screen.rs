//! What the demo says while it runs.

use std::{
    fmt::Display,
    future::Future,
    io::{self, Write},
    pin::pin,
    time::Duration,
};

use tokio::time;

/// Prints a line. Nobody may be reading it, which is not the demo's affair.
pub(super) fn say(line: impl Display) {
    let mut stdout = io::stdout().lock();
    let _printed = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Prints a text of any length in lines that fit a terminal.
pub(super) fn tell(text: &str) {
    wrap(text).iter().for_each(say);
}

/// Cuts a text between words; what follows the first line is set in.
fn wrap(text: &str) -> Vec<String> {
    const COLUMNS: usize = 100;
    let mut lines = Vec::new();
    let mut line = "  ".to_owned();
    for word in text.split_whitespace() {
        if line.chars().count() + word.chars().count() >= COLUMNS && !line.trim().is_empty() {
            lines.push(std::mem::replace(&mut line, " ".repeat(6)));
        }
        if line.ends_with(|last: char| last != ' ') {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// Waits for `work`, says so when that takes more than a second, and gives up at the deadline.
///
/// # Errors
///
/// [`TooLong`], at the deadline.
pub(super) async fn patiently<T>(
    what: &'static str,
    deadline: Duration,
    work: impl Future<Output = T>,
) -> Result<T, TooLong> {
    const SILENCE: Duration = Duration::from_secs(1);
    let mut work = pin!(work);
    if let Ok(done) = time::timeout(SILENCE, &mut work).await {
        return Ok(done);
    }
    say(format_args!("  … waiting for {what}, up to {} s", deadline.as_secs()));
    let rest = deadline.saturating_sub(SILENCE);
    time::timeout(rest, work).await.map_err(|_| TooLong { what, deadline })
}

/// Something that should have happened did not.
#[derive(Debug, thiserror::Error)]
#[error("waited {} s for {what} in vain", deadline.as_secs())]
pub struct TooLong {
    what: &'static str,
    deadline: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_words() {
        let lines = wrap(&"word ".repeat(50));
        assert!(lines.iter().all(|line| line.len() <= 100 && !line.ends_with(' ')), "{lines:?}");
        assert_eq!(lines.join(" ").split_whitespace().count(), 50);
        assert!(lines[0].starts_with("  w") && lines[1].starts_with("      w"), "{lines:?}");
        assert_eq!(wrap(&"x".repeat(200)), [format!("  {}", "x".repeat(200))]);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_at_the_deadline() {
        let limit = Duration::from_secs(5);
        let begun = time::Instant::now();
        let error = patiently("nobody", limit, std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(begun.elapsed(), limit);
        assert_eq!(error.to_string(), "waited 5 s for nobody in vain");
        let late = patiently("somebody", limit, time::sleep(Duration::from_secs(4))).await;
        assert!(late.is_ok());
    }
}
