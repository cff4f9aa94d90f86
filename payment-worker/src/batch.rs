//! Batches with a fast path: one transaction executes the items that it can, and each other item
//! has its own. When the shared transaction fails, every item is executed alone, so that one bad
//! item fails no other.

use std::error::Error;

/// Items of one kind.
pub(crate) trait Batch: Sync {
    type Item: Sync;
    type Output: Send;

    /// Name of the items in logs.
    const ITEMS: &'static str;

    /// Executes items in one transaction. Returns an output for each, in order; `None` leaves the
    /// item to [`alone`](Self::alone).
    fn together(
        &self,
        items: &[Self::Item],
    ) -> impl Future<Output = Result<Vec<Option<Self::Output>>, sqlx::Error>> + Send;

    /// Executes an item in a transaction of its own.
    fn alone(&self, item: &Self::Item) -> impl Future<Output = Self::Output> + Send;
}

/// Executes items together as far as that goes. Returns a future for each, in order, which executes
/// what is left alone; the caller bounds how many run at once.
pub(crate) async fn execute<'a, B: Batch>(
    batch: &'a B,
    items: &'a [B::Item],
) -> Vec<impl Future<Output = B::Output> + Send + 'a> {
    let outputs = match batch.together(items).await {
        Ok(outputs) => outputs,
        Err(error) => {
            let error = &error as &dyn Error;
            tracing::warn!(
                items = B::ITEMS,
                error,
                "a batch failed; executing each alone"
            );
            items.iter().map(|_| None).collect()
        }
    };
    let each = items.iter().zip(outputs);
    each.map(|(item, output)| async move {
        match output {
            Some(output) => output,
            None => batch.alone(item).await,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    /// Takes even numbers together, unless one of them is zero.
    struct Even;

    impl Batch for Even {
        type Item = u32;
        type Output = (u32, bool);

        const ITEMS: &'static str = "numbers";

        async fn together(&self, items: &[u32]) -> Result<Vec<Option<(u32, bool)>>, sqlx::Error> {
            if items.contains(&0) {
                return Err(sqlx::Error::RowNotFound);
            }
            let taken = items
                .iter()
                .map(|item| (item % 2 == 0).then_some((*item, true)));
            Ok(taken.collect())
        }

        async fn alone(&self, item: &u32) -> (u32, bool) {
            (*item, false)
        }
    }

    #[tokio::test]
    async fn what_a_batch_leaves_or_fails_is_executed_alone_in_order() {
        let executed = async |items: &[u32]| join_all(execute(&Even, items).await).await;
        assert_eq!(
            executed(&[2, 3, 4]).await,
            [(2, true), (3, false), (4, true)]
        );
        assert_eq!(
            executed(&[2, 0, 3]).await,
            [(2, false), (0, false), (3, false)]
        );
        assert!(executed(&[]).await.is_empty());
    }
}
