//! Statements on schema `payment`, one per function. Those that change a state are guarded, so that
//! a repeat or another order does no harm.

pub(crate) mod breaker;
pub(crate) mod cancellations;
pub(crate) mod chores;
pub(crate) mod customers;
pub(crate) mod events;
pub(crate) mod findings;
pub(crate) mod inbox;
pub(crate) mod operations;
pub(crate) mod payments;
pub(crate) mod policies;
pub(crate) mod refunds;
pub(crate) mod sweeps;
pub(crate) mod timeline;

/// Parses a word of a row. One of a later version is an error, so that the row is left to that
/// version while an upgrade runs.
fn known<T>(word: &str, parse: fn(&str) -> Option<T>) -> Result<T, sqlx::Error> {
    let unknown = || sqlx::Error::Decode(format!("{word:?} is not known to this version").into());
    parse(word).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use platform::testing::TestApp;

    use super::*;
    use crate::operation::Kind;
    use crate::testing;

    /// As while an upgrade runs, when the later version is the first to write them.
    #[tokio::test]
    async fn rows_of_a_later_version_are_left_to_it() {
        let app = TestApp::start().await;
        let state = testing::state(&app);
        let [known, unknown_state, reason, request, kind] = testing::hold(&state).await;
        let later = format!(
            "alter table payment.payments drop constraint payments_state_check,
                 drop constraint payments_void_reason_check;
             alter table payment.operations drop constraint operations_kind_check;
             update payment.payments set state = 'postponed' where booking_id = '{}';
             update payment.payments set void_reason = 'full_moon' where booking_id = '{}';
             update payment.operations set params = '{{\"do\": \"teleport\"}}' where booking_id = '{}';
             update payment.operations set kind = 'teleport', next_try_at = '-infinity'
             where booking_id = '{}'",
            unknown_state.booking_id, reason.booking_id, request.booking_id, kind.booking_id
        );
        let writing = sqlx::raw_sql(sqlx::AssertSqlSafe(later));
        writing.execute(&state.db).await.unwrap();

        let (db, now, lease) = (&state.db, state.now(), Duration::from_secs(60));
        let claimed = operations::claim_due(db, Kind::Create, 10, lease, now).await;
        let claimed: Vec<_> = claimed.unwrap().into_iter().map(|o| o.booking_id).collect();
        assert_eq!(claimed, [known.booking_id]);
        // The probe of an open breaker passes over it, too.
        let probed = operations::claim_probe(db, lease, now + lease * 2).await;
        let probed: Vec<_> = probed.unwrap().into_iter().map(|o| o.booking_id).collect();
        assert!(!probed.contains(&kind.booking_id), "{probed:?}");
        let mut conn = db.acquire().await.unwrap();
        for unreadable in [&unknown_state, &reason] {
            let id = unreadable.booking_id;
            let locked = payments::lock(&mut conn, id).await;
            assert!(matches!(locked, Err(sqlx::Error::Decode(_))), "{locked:?}");
            assert!(payments::lock_all(&mut conn, &[id]).await.is_err());
        }
        let id = known.booking_id;
        assert!(payments::lock(&mut conn, id).await.unwrap().is_some());
        drop(conn);
        app.finish().await;
    }
}
