//! How many bytes the nodes of a history have: what was allocated while one of them was at work, or for it, and has not
//! been freed. What the model and the simulation remember is not counted, as they forget nothing.

// An allocator is written with it. Each block begins with one byte more, padded as it has to be aligned, that says whether
// it counts.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
    // A history has one thread.
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

/// Bytes that the nodes of this thread have now, since the first of them began.
pub fn of_nodes() -> usize {
    usize::try_from(BYTES.get()).unwrap_or(0)
}

/// What is allocated meanwhile counts.
pub fn counted<T>(work: impl FnOnce() -> T) -> T {
    let before = AT_WORK.replace(true);
    let result = work();
    AT_WORK.set(before);
    result
}

struct Counting;

impl Counting {
    fn note(bytes: isize) {
        // A thread that ends has none of it any more.
        let _ = BYTES.try_with(|all| all.set(all.get().wrapping_add(bytes)));
    }
}

/// A block with its mark before it.
fn marked(layout: Layout) -> Option<Layout> {
    Layout::from_size_align(layout.size().checked_add(layout.align())?, layout.align()).ok()
}

// SAFETY: every block is one of the system's, longer by its alignment at its beginning; what is given out is therefore
// aligned and as long as was asked for, and given back to the system as it was got.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(whole) = marked(layout) else { return std::ptr::null_mut() };
        let counts = AT_WORK.try_with(Cell::get).unwrap_or(false);
        // SAFETY: its size is not 0, as an alignment never is.
        let block = unsafe { System.alloc(whole) };
        if block.is_null() {
            return block;
        }
        if counts {
            Counting::note(layout.size() as isize);
        }
        // SAFETY: the first byte is the mark's, and what follows the padding is within the block.
        unsafe {
            block.write(u8::from(counts));
            block.add(layout.align())
        }
    }

    unsafe fn dealloc(&self, given: *mut u8, layout: Layout) {
        let Some(whole) = marked(layout) else { return };
        // SAFETY: it was given out by `alloc` for this layout.
        unsafe {
            let block = given.sub(layout.align());
            if block.read() == 1 {
                Counting::note(-(layout.size() as isize));
            }
            System.dealloc(block, whole);
        }
    }
}

#[test]
fn what_is_allocated_at_work_counts_until_it_is_freed() {
    let before = of_nodes();
    let uncounted = vec![1_u8; 1_000];
    assert_eq!(of_nodes(), before);
    let mut text = counted(|| vec![1_u64; 1_000]);
    assert_eq!(of_nodes() - before, 8_000);
    counted(|| text.reserve_exact(1_000));
    assert_eq!(of_nodes() - before, 16_000, "a block that grows");
    drop(uncounted);
    drop(text);
    assert_eq!(of_nodes(), before);
}
