//! Classification of errors: an unavailable database versus a wrong request.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use sqlx::error::DatabaseError;

use crate::sync::MutexExt as _;

/// SQLSTATE classes and codes of a server that can't serve: connection exceptions, read-only
/// (a standby, or demoted), insufficient resources (disk, memory, connections), operator
/// intervention (shutdown, restart, a cancelled statement), a failed system call, and a refused
/// log-in.
const AWAY: [&str; 6] = ["08", "25006", "53", "57", "58", "28"];
/// SQLSTATE codes of a server, or a process, that has too much to do: deadlocks and serialization
/// failures that were repeated in vain, a lock that was not free in time, and a transaction that
/// was left idle for too long.
const BUSY: [&str; 3] = ["40", "55P03", "25P03"];
/// SQLSTATE codes of a server that turned read-only under live connections, or is shutting down:
/// the pool's other connections are to the same server.
const MOVED: [&str; 3] = ["25006", "57P01", "57P02"];

/// SQLSTATE code of a full disk: reads go on, writes fail.
const DISK_FULL: &str = "53100";

/// Time and message of the last report of a full disk.
static REFUSAL: Mutex<Option<(Instant, String)>> = Mutex::new(None);

/// Returns whether PostgreSQL is unavailable: unreachable, silent, starting, shutting
/// down, read-only, or out of disk, memory or connections. The same request may succeed later, and
/// another one would not succeed now.
#[must_use]
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        // A proxy that accepts and closes shows as a protocol error at connect.
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(_) => has_code(error, &AWAY),
        _ => false,
    }
}

/// Returns whether PostgreSQL [is unavailable](is_away) or overloaded: a retry may succeed soon.
#[must_use]
pub fn is_busy(error: &sqlx::Error) -> bool {
    is_away(error) || has_code(error, &BUSY)
}

/// Returns the last report of a full disk, if it is younger than `life`.
#[must_use]
pub fn recent_refusal(life: Duration) -> Option<String> {
    let refusal = REFUSAL.lock_unpoisoned();
    refusal
        .as_ref()
        .filter(|(at, _)| at.elapsed() < life)
        .map(|(_, said)| said.clone())
}

/// Remembers that a disk is full, which no check without a write finds.
pub(super) fn remember_refusal(error: &sqlx::Error) {
    if has_code(error, &[DISK_FULL]) {
        let mut refusal = REFUSAL.lock_unpoisoned();
        *refusal = Some((Instant::now(), error.to_string()));
    }
}

/// Returns whether the server behind every connection of the pool can't serve writes any more.
pub(super) fn has_moved(error: &sqlx::Error) -> bool {
    has_code(error, &MOVED)
}

fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| codes.iter().any(|prefix| code.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::error::Error;
    use std::fmt;
    use std::io;

    use sqlx::error::ErrorKind;

    use super::*;

    /// A refusal with nothing but its code.
    #[derive(Debug)]
    struct Refusal(&'static str);

    impl fmt::Display for Refusal {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Refusal {}

    impl DatabaseError for Refusal {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn refused(code: &'static str) -> sqlx::Error {
        sqlx::Error::Database(Box::new(Refusal(code)))
    }

    #[test]
    fn a_server_that_cannot_serve_is_away_and_a_wrong_request_is_not() {
        let away = [
            "08006", "25006", "53100", "53300", "57014", "57P01", "57P03", "58030", "28P01",
        ];
        for code in away {
            assert!(is_away(&refused(code)), "{code}");
        }
        for code in ["22021", "23505", "42P01", "40001", "55P03", "XX000"] {
            assert!(!is_away(&refused(code)), "{code}");
        }
        let closed = "unexpected response from SSLRequest: 0x00".to_owned();
        assert!(is_away(&sqlx::Error::Protocol(closed)));
        assert!(is_away(&sqlx::Error::Tls("bad certificate".into())));
        assert!(is_away(
            &io::Error::from(io::ErrorKind::ConnectionReset).into()
        ));
        assert!(!is_away(&sqlx::Error::RowNotFound));
    }

    #[test]
    fn contention_is_busy_and_not_away() {
        for code in ["40001", "40P01", "55P03", "25P03"] {
            assert!(
                is_busy(&refused(code)) && !is_away(&refused(code)),
                "{code}"
            );
        }
        assert!(!is_busy(&refused("23505")));
    }
}
