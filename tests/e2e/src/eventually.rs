//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// The time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Asks `look` until it succeeds. Its errors are what was seen instead; when the deadline has passed the last of
/// them is part of the error.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(seen) => return Ok(seen),
            Err(seen) if begun.elapsed() >= deadline => {
                return Err(anyhow!("not within {deadline:?}: {what}; last seen: {seen:#}"));
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn it_returns_what_it_waited_for() {
        let mut looks = 0;
        let seen = eventually(Duration::from_secs(5), "three looks", async || {
            looks += 1;
            ensure!(looks == 3, "{looks} looks");
            Ok(looks)
        });
        assert_eq!(seen.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn it_says_what_it_saw_last() {
        let never = eventually(Duration::ZERO, "rain", async || anyhow::bail!("sunshine") as Result<()>);
        assert_eq!(never.await.unwrap_err().to_string(), "not within 0ns: rain; last seen: sunshine");
    }
}
