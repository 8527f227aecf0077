//! Work on a stream of items on all processors: results come back in order, and only so much is held at once.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::thread::{ScopedJoinHandle, available_parallelism};

/// A piece of work: so many items, or so many bytes of them.
const ITEMS: usize = 2048;
const BYTES: usize = 1 << 20;

/// Takes items with their sizes in bytes from `next` until it has no more, does `work` on them on other threads, and hands the
/// results to `sink` in the order of the items. The first error ends it.
pub(super) fn in_order<T: Send, U: Send, E>(
    next: impl FnMut() -> Result<Option<(T, usize)>, E>,
    work: impl Fn(T) -> U + Sync,
    mut sink: impl FnMut(U) -> Result<(), E>,
) -> Result<(), E> {
    pieces(next, |piece| piece.into_iter().map(&work).collect::<Vec<U>>(), |done| done.into_iter().try_for_each(&mut sink))
}

/// As [`in_order`], with work on a whole piece at a time.
pub(super) fn pieces<T: Send, U: Send, E>(
    mut next: impl FnMut() -> Result<Option<(T, usize)>, E>,
    work: impl Fn(Vec<T>) -> U + Sync,
    mut sink: impl FnMut(U) -> Result<(), E>,
) -> Result<(), E> {
    let threads = available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let mut running: VecDeque<ScopedJoinHandle<'_, U>> = VecDeque::new();
        loop {
            let piece = gather(&mut next)?;
            if piece.is_empty() {
                break;
            }
            // A few items, as a command appends them, are not worth a thread.
            if running.is_empty() && piece.len() < ITEMS / 16 {
                sink(work(piece))?;
                continue;
            }
            if running.len() > threads {
                finish(&mut running, &mut sink)?;
            }
            let work = &work;
            running.push_back(scope.spawn(move || work(piece)));
        }
        while !running.is_empty() {
            finish(&mut running, &mut sink)?;
        }
        Ok(())
    })
}

/// As [`in_order`], with items that another thread reads: `produce` hands them on with their sizes until it is told that it may stop.
pub(super) fn in_order_from<T: Send, U: Send, E: Send>(
    produce: impl FnOnce(&mut dyn FnMut(T, usize) -> bool) -> Result<(), E> + Send,
    work: impl Fn(T) -> U + Sync,
    sink: impl FnMut(U) -> Result<(), E>,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let (give, taken) = mpsc::sync_channel::<Vec<(T, usize)>>(1);
        let producer = scope.spawn(move || {
            let (mut piece, mut bytes) = (Vec::new(), 0);
            produce(&mut |item, size| {
                piece.push((item, size));
                bytes += size;
                let full = piece.len() >= ITEMS || bytes >= BYTES;
                if full {
                    bytes = 0;
                }
                !full || give.send(std::mem::take(&mut piece)).is_ok()
            })?;
            _ = give.send(piece);
            Ok(())
        });
        let mut items = taken.into_iter().flatten();
        let done = in_order(|| Ok(items.next()), work, sink);
        // Whoever still reads finds nobody there to take it.
        drop(items);
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.and(produced)
    })
}

fn gather<T, E>(next: &mut impl FnMut() -> Result<Option<(T, usize)>, E>) -> Result<Vec<T>, E> {
    let (mut piece, mut bytes) = (Vec::new(), 0);
    while piece.len() < ITEMS && bytes < BYTES {
        let Some((item, size)) = next()? else { break };
        piece.push(item);
        bytes += size;
    }
    Ok(piece)
}

/// Waits for the oldest piece. A panic in it is one here.
fn finish<U, E>(running: &mut VecDeque<ScopedJoinHandle<'_, U>>, sink: &mut impl FnMut(U) -> Result<(), E>) -> Result<(), E> {
    let Some(oldest) = running.pop_front() else { return Ok(()) };
    match oldest.join() {
        Ok(done) => sink(done),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_error_ends_it() {
        let mut numbers = 0..50_000u32;
        let mut seen = Vec::new();
        in_order(
            || Ok::<_, ()>(numbers.next().map(|n| (n, 100))),
            |n| n * 2,
            |n| {
                seen.push(n);
                Ok(())
            },
        )
        .unwrap();
        assert!(seen.len() == 50_000 && seen.is_sorted());
        let mut numbers = 0..50_000u32;
        let ended = in_order(|| Ok(numbers.next().map(|n| (n, 1))), |n| n, |n| if n == 7000 { Err(n) } else { Ok(()) });
        assert_eq!(ended, Err(7000));
        assert!(numbers.next().is_some_and(|n| n < 30_000), "it went on reading");
    }

    #[test]
    fn what_another_thread_reads_comes_in_order_and_its_error_is_told() {
        let read = |upto: u32, end: Result<(), u32>| {
            move |give: &mut dyn FnMut(u32, usize) -> bool| {
                let _ = (0..upto).all(|n| give(n, 100));
                end
            }
        };
        let mut seen = Vec::new();
        in_order_from(
            read(50_001, Ok(())),
            |n| n * 2,
            |n| {
                seen.push(n);
                Ok(())
            },
        )
        .unwrap();
        assert!(seen.len() == 50_001 && seen.is_sorted());
        assert_eq!(in_order_from(read(5000, Err(9)), |n| n, |_| Ok(())), Err(9));
        assert_eq!(in_order_from(read(u32::MAX, Ok(())), |n| n, |n| if n == 7000 { Err(n) } else { Ok(()) }), Err(7000));
    }
}
