//! A new skill in JavaScript.

use super::super::sdk::JS_SDK;
use super::{File, Skill, Template, plain};

const TEMPLATE: Template = Template {
    common: &[
        ("package.json", include_str!("../templates/js/package.json")),
        (".gitignore", include_str!("../templates/js/gitignore")),
    ],
    stateless: &[
        ("SKILL.md", include_str!("../templates/js/SKILL.md")),
        ("skill.js", include_str!("../templates/js/skill.js")),
        ("skill.test.js", include_str!("../templates/js/skill.test.js")),
    ],
    stateful: &[
        ("skill.js", include_str!("../templates/js/stateful/skill.js")),
        ("skill.test.js", include_str!("../templates/js/stateful/skill.test.js")),
    ],
};

/// Its files.
pub fn files(new: &Skill<'_>) -> Vec<File> {
    plain(new, &TEMPLATE, JS_SDK, "sdk/js")
}
