//! What a skill author imports.
