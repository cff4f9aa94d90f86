//! Replays of requests that began or refreshed a session.

use platform::problem::{Kind, Problem};

use super::session::{Grant, hash_of};
use super::store;
use crate::state::AppState;
use crate::write::Done;

/// Passes the outcome of a sign-in, sign-up or refresh on, unless it is a replay whose refresh
/// token has been rotated since: using that one would end the session.
///
/// # Errors
/// `signed-out` for such a replay.
pub(crate) async fn unless_moved_on<T>(
    state: &AppState,
    done: Done<(Grant, T)>,
) -> Result<(Done<Grant>, T), Problem> {
    let (done, rest) = done.split();
    if done.is_replay() {
        let grant = done.value;
        let token = grant.refresh_token(&state.ctx.keys);
        let now = state.ctx.clock.now();
        if !store::is_newest(&state.ctx.db, grant.session_id, &hash_of(&token), now).await? {
            let detail = "The session of this request was refreshed or ended since. Sign in again.";
            return Err(Problem::new(Kind::SignedOut, detail));
        }
    }
    Ok((done, rest))
}
