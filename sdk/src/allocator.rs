//! The allocator of guests that import no WASI.
//!
//! It starts in the memory that the module is instantiated with, from the linker's `__heap_base`
//! on, and asks for more only when that is used up: growing a memory costs the host two system
//! calls that change its address space, several times what a small run costs otherwise. Link with
//! `--initial-memory=4194304` so that there is something to start in. Rust's own allocator for this
//! target is the same one, but grows first in the releases that we build with.

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
