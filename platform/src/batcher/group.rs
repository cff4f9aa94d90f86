//! Group commit with bisection: a batch shares one transaction, and when that is refused, halves of
//! it do, down to the one item that the database can't take. A poison item fails alone, at the
//! price of two transactions for each halving.

use std::marker::PhantomData;

use sqlx::Error;

use super::{BatchWork, Job};
use crate::pg;

/// Work whose items share a transaction.
pub trait GroupCommit: Sync {
    /// A request.
    type Item: Sync;
    /// The response to it.
    type Output: Send;

    /// Executes all `items` in one transaction, or none. Returns a response for each, in order.
    fn commit(
        &self,
        items: &[Self::Item],
    ) -> impl Future<Output = Result<Vec<Self::Output>, Error>> + Send;
}

/// Commits `items` together, and bisects when one of them is at fault. An outage of the database is
/// no item's fault: it ends the work, and fails all that are left.
pub async fn commit_each<W: GroupCommit, E: From<Error> + Clone + Send>(
    work: &W,
    items: &[W::Item],
) -> Vec<Result<W::Output, E>> {
    let mut answers = Vec::with_capacity(items.len());
    // The parts that are left, the next one last.
    let mut parts = vec![items];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        match work.commit(part).await {
            Ok(done) => answers.extend(done.into_iter().map(Ok)),
            Err(error) if pg::is_busy(&error) => {
                let error = E::from(error);
                answers.resize_with(items.len(), || Err(error.clone()));
                return answers;
            }
            Err(error) if part.len() == 1 => answers.push(Err(E::from(error))),
            Err(_) => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
        }
    }
    answers
}

/// A [`GroupCommit`] as the [`BatchWork`] of a batcher: each caller gets its item's outcome, with
/// errors converted to `E`.
pub struct Grouped<C, E> {
    commit: C,
    error: PhantomData<fn() -> E>,
}

impl<C, E> From<C> for Grouped<C, E> {
    fn from(commit: C) -> Self {
        Self {
            commit,
            error: PhantomData,
        }
    }
}

impl<C, E> BatchWork for Grouped<C, E>
where
    C: GroupCommit<Item: Send + 'static, Output: 'static> + Send + 'static,
    E: From<Error> + Clone + Send + 'static,
{
    type Item = C::Item;
    type Output = Result<C::Output, E>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let (items, askers): (Vec<_>, Vec<_>) = jobs.into_iter().map(Job::split).unzip();
        for (asker, outcome) in askers
            .into_iter()
            .zip(commit_each(&self.commit, &items).await)
        {
            asker.answer(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::batcher::{BatchLimits, Batcher};
    use crate::problem::{Kind, Problem};

    /// Refuses batches with zero among them, and is out for those with a negative number.
    #[derive(Default)]
    struct Fussy(Mutex<Vec<usize>>);

    impl GroupCommit for Fussy {
        type Item = i32;
        type Output = i32;

        async fn commit(&self, items: &[i32]) -> Result<Vec<i32>, Error> {
            self.0.lock().unwrap().push(items.len());
            if items.contains(&0) {
                return Err(Error::RowNotFound);
            }
            if items.iter().any(|item| *item < 0) {
                return Err(Error::PoolTimedOut);
            }
            Ok(items.iter().map(|item| item * 10).collect())
        }
    }

    async fn commit(items: &[i32]) -> (Vec<Result<i32, Kind>>, Vec<usize>) {
        let work = Fussy::default();
        let answers: Vec<Result<_, Problem>> = commit_each(&work, items).await;
        let kinds = answers
            .into_iter()
            .map(|answer| answer.map_err(|problem| problem.kind()));
        (kinds.collect(), work.0.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_poison_item_fails_alone_wherever_it_is_in_the_batch() {
        for at in 0..7 {
            let mut items = [1, 2, 3, 4, 5, 6, 7];
            items[at] = 0;
            let (answers, _) = commit(&items).await;
            for (item, answer) in items.into_iter().zip(answers) {
                let expected = if item == 0 {
                    Err(Kind::Internal)
                } else {
                    Ok(item * 10)
                };
                assert_eq!(answer, expected, "poison at {at}");
            }
        }
        let (answers, _) = commit(&[0, 0, 3]).await;
        assert_eq!(answers, [Err(Kind::Internal), Err(Kind::Internal), Ok(30)]);
    }

    #[tokio::test]
    async fn each_caller_of_a_group_commit_gets_the_outcome_of_its_item() {
        let fussy = Grouped::<Fussy, Problem>::from(Fussy::default());
        let batcher = Batcher::new(fussy, BatchLimits::USUAL);
        let asked = futures_util::future::join_all([1, 0, 3].map(|item| batcher.ask(item))).await;
        let outcomes = asked.into_iter().map(|answer| answer.unwrap().ok());
        assert_eq!(outcomes.collect::<Vec<_>>(), [Some(10), None, Some(30)]);
    }

    #[tokio::test]
    async fn one_poison_item_among_many_costs_two_transactions_a_halving() {
        let mut items = vec![1; 512];
        items[300] = 0;
        let (_, commits) = commit(&items).await;
        assert_eq!(commits.len(), 1 + 2 * 9);
        let (_, commits) = commit(&[1; 512]).await;
        assert_eq!(commits, [512]);
    }

    #[tokio::test]
    async fn an_outage_is_not_tried_again_for_each() {
        let (answers, commits) = commit(&[1, -1, 2, 3]).await;
        assert_eq!(answers, [Err(Kind::Overloaded); 4]);
        assert_eq!(commits, [4]);
        let (answers, _) = commit(&[0, 1, 2, -1]).await;
        let out = Err(Kind::Overloaded);
        assert_eq!(answers, [Err(Kind::Internal), Ok(10), out, out]);
        assert!(commit(&[]).await.1.is_empty());
    }
}
