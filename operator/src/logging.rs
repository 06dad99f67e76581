//! The operator's own log, on standard error.

use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::args::LogFormat;

/// The target of the text of lines that were not read, at level debug.
///
/// A log may hold its pod's secrets, so their text is written only where this target is asked for by its name:
/// `IP_SENTRY_LOG=info,unread_lines=debug`. `debug` alone does not do that.
pub const UNREAD_LINES: &str = "unread_lines";

/// Begins to write what `directives` ask for.
pub fn start(directives: &str, format: LogFormat) -> Result<(), ParseError> {
    let lines = tracing_subscriber::fmt().with_env_filter(filter(directives)?).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        LogFormat::Text => lines.init(),
    }
    Ok(())
}

fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    // Of two directives for one target the later one counts.
    EnvFilter::builder().parse(format!("{UNREAD_LINES}=off,{directives}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_lines_is_written_only_where_it_is_asked_for_by_name() {
        let writes_lines = |directives: &str| {
            let subscriber = tracing_subscriber::fmt().with_env_filter(filter(directives).unwrap()).finish();
            tracing::subscriber::with_default(
                subscriber,
                || tracing::enabled!(target: UNREAD_LINES, tracing::Level::DEBUG),
            )
        };
        let table = [("info", false), ("debug", false), ("trace", false), ("info,unread_lines=debug", true)];
        for (directives, expect) in table {
            assert_eq!(writes_lines(directives), expect, "{directives}");
        }
    }
}
