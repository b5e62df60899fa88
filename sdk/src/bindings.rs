//! The contract of `wit/skill.wit` in Rust, as wit-bindgen generates it. No author sees it: the
//! other modules wrap what is here, and `__export` hands it to the attribute.
#![allow(missing_docs)]

wit_bindgen::generate!({
    path: "../wit",
    world: "skill",
    pub_export_macro: true,
    export_macro_name: "export_skill",
    default_bindings_module: "::eve_sdk::bindings",
    additional_derives: [PartialEq],
});
