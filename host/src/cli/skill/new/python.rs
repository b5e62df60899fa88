//! A new skill in Python.

use super::super::sdk::PYTHON_SDK;
use super::{File, Skill, Template, plain};

const TEMPLATE: Template = Template {
    common: &[
        ("pyproject.toml", include_str!("../templates/python/pyproject.toml")),
        (".gitignore", include_str!("../templates/python/gitignore")),
    ],
    stateless: &[
        ("SKILL.md", include_str!("../templates/python/SKILL.md")),
        ("skill.py", include_str!("../templates/python/skill.py")),
        ("test_skill.py", include_str!("../templates/python/test_skill.py")),
    ],
    stateful: &[
        ("skill.py", include_str!("../templates/python/stateful/skill.py")),
        ("test_skill.py", include_str!("../templates/python/stateful/test_skill.py")),
    ],
};

/// Its files.
pub fn files(new: &Skill<'_>) -> Vec<File> {
    plain(new, &TEMPLATE, PYTHON_SDK, "sdk/python")
}
