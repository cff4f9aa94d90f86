//! Extension traits that ignore lock poisoning: a panic while a lock was held is logged where it
//! happened, and must not spread to later holders. For state that is consistent after each
//! statement.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// [`Mutex::lock`] whatever became of earlier holders.
pub trait MutexExt<T: ?Sized> {
    /// Locks, also after a panic of another holder.
    fn lock_unpoisoned(&self) -> MutexGuard<'_, T>;
}

impl<T: ?Sized> MutexExt<T> for Mutex<T> {
    fn lock_unpoisoned(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`RwLock::read`] and [`RwLock::write`] whatever became of earlier holders.
pub trait RwLockExt<T: ?Sized> {
    /// Locks for reading, also after a panic of a writer.
    fn read_unpoisoned(&self) -> RwLockReadGuard<'_, T>;

    /// Locks for writing, also after a panic of another writer.
    fn write_unpoisoned(&self) -> RwLockWriteGuard<'_, T>;
}

impl<T: ?Sized> RwLockExt<T> for RwLock<T> {
    fn read_unpoisoned(&self) -> RwLockReadGuard<'_, T> {
        self.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_unpoisoned(&self) -> RwLockWriteGuard<'_, T> {
        self.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_of_one_holder_leaves_the_lock_usable() {
        let (mutex, lock) = (Mutex::new(1), RwLock::new(1));
        let holder = AssertUnwindSafe(|| {
            let _held = (mutex.lock_unpoisoned(), lock.write_unpoisoned());
            panic!("expected");
        });
        assert!(catch_unwind(holder).is_err());
        *mutex.lock_unpoisoned() += 1;
        *lock.write_unpoisoned() += 1;
        assert_eq!((*mutex.lock_unpoisoned(), *lock.read_unpoisoned()), (2, 2));
    }
}
