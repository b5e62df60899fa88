//! How much a component makes of itself when it begins. Components in it can be instantiated many times,
//! and those in them again: a few hundred bytes are a million instances, which the compiler survives by
//! its limits, and which the control plane would then have to load to see whether they fit.

use wasmparser::{Parser, Payload, SectionLimited};

/// Instances and functions between components: Python's have a thousand or so. What is counted for each is
/// at most 100 bytes of the control plane's memory.
const MOST: u64 = 1_000_000;

/// Refuses what makes too much. What cannot be read is for the validator to tell.
pub(super) fn check(wasm: &[u8]) -> Result<(), String> {
    // What the components and modules make that are open, the outermost first.
    let mut open = vec![0_u64];
    // Which of the components so far is instantiated does not matter: none makes more than this.
    let mut heaviest = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        let more = match payload {
            Err(_) => return Ok(()),
            Ok(Payload::ComponentSection { .. } | Payload::ModuleSection { .. }) => {
                open.push(0);
                0
            }
            Ok(Payload::End(_)) => {
                heaviest = heaviest.max(open.pop().unwrap_or(0));
                0
            }
            Ok(Payload::InstanceSection(section)) => entries(&section),
            Ok(Payload::ComponentCanonicalSection(section)) => entries(&section),
            Ok(Payload::ComponentInstanceSection(section)) => {
                entries(&section).saturating_mul(heaviest.saturating_add(1))
            }
            Ok(_) => 0,
        };
        let Some(made) = open.last_mut() else { continue };
        *made = made.saturating_add(more);
        if *made > MOST {
            return Err(format!("the component makes more than {MOST} instances of its parts"));
        }
    }
    Ok(())
}

/// How many a section has: as many as it says, unless there is no room for them.
fn entries<T>(section: &SectionLimited<'_, T>) -> u64 {
    let room = section.range().len() as u64;
    u64::from(section.count()).min(room)
}
