//! `eve:skill` as Rust: generated from `wit/skill.wit`.
#![allow(missing_docs, clippy::all)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "skill",
    imports: {
        // What waits for the I/O runtime; everything else answers from memory, and a synchronous
        // host function is cheaper.
        "eve:skill/queue.create": async | trappable,
        "eve:skill/queue.create-many": async | trappable,
        "eve:skill/queue.get": async | trappable,
        "eve:skill/queue.result": async | trappable,
        "eve:skill/queue.list": async | trappable,
        "eve:skill/queue.children": async | trappable,
        "eve:skill/queue.blockers": async | trappable,
        "eve:skill/queue.cancel": async | trappable,
        "eve:skill/db.query": async | trappable,
        "eve:skill/db.execute": async | trappable,
        "eve:skill/db.transaction": async | trappable,
        "eve:skill/db.migrate": async | trappable,
        "eve:skill/deploy.environments": async | trappable,
        "eve:skill/deploy.create": async | trappable,
        "eve:skill/deploy.scale": async | trappable,
        "eve:skill/deploy.rollback": async | trappable,
        "eve:skill/deploy.delete": async | trappable,
        "eve:skill/deploy.status": async | trappable,
        "eve:skill/deploy.list": async | trappable,
        "eve:skill/deploy.history": async | trappable,
        "eve:skill/deploy.logs": async | trappable,
        "eve:skill/deploy.kubernetes": async | trappable,
        default: trappable,
    },
    exports: { default: async },
});
