//! `eve skill show`, and how skills and their versions look.

use comfy_table::Cell;

use super::super::output::{Render, View, cell, optional, plain_text, size};
use crate::http::Items;
use crate::schemas::grants::SchemaGrant;
use crate::skills::capabilities::{CapabilityGrant, Denier, Place};
use crate::skills::store::{Owner, Skill, SkillDetail, Version};

impl Render for Items<Skill> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No skills. `eve skill push PATH` brings one.".to_owned();
        }
        let rows = self.items.iter().map(|skill| {
            [
                cell(&skill.name),
                optional(skill.active_version.as_ref()),
                cell(owner(skill.owner)),
                cell(format!("{} ago", view.ago(skill.updated_at))),
                cell(&skill.description),
            ]
        });
        view.table(["NAME", "ACTIVE", "OWNER", "UPDATED", "DESCRIPTION"], 4, rows)
    }
}

impl Render for Version {
    fn render(&self, view: &View) -> String {
        let list = |items: &[String]| optional((!items.is_empty()).then(|| items.join(", ")));
        view.details([
            ("version", cell(&self.version)),
            ("active", cell(if self.active { "yes" } else { "no" })),
            ("sha256", cell(&self.sha256)),
            ("size", cell(bytes(self.size_bytes))),
            ("imports", list(&self.imports)),
            ("capabilities", list(&self.capabilities)),
            ("pushed", view.moment(self.created_at)),
        ])
    }
}

impl Render for SkillDetail {
    fn render(&self, view: &View) -> String {
        let skill = &self.skill;
        let active = self.versions.iter().find(|version| version.active);
        let runs = self.worker_types.iter().filter(|place| place.runs);
        let elsewhere = self.worker_types.iter().filter(|place| !place.runs);
        let mut text = view.details([
            ("name", cell(&skill.name)),
            ("description", cell(&skill.description)),
            ("owner", cell(owner(skill.owner))),
            ("active", optional(skill.active_version.as_ref())),
            ("imports", optional(active.map(|version| version.imports.join(", ")))),
            ("needs", listed(self.capabilities.iter().filter(|c| c.needed).map(needed))),
            ("revoked", listed(self.capabilities.iter().filter_map(|c| revoked(c, view)))),
            ("runs on", listed(runs.map(|place| place.worker_type.clone()))),
            ("not on", listed(elsewhere.map(denied))),
            ("schemas", listed(self.schemas.iter().map(schema))),
        ]);
        let rows = self.versions.iter().map(|version| {
            [
                cell(if version.active { "*" } else { "" }),
                cell(&version.version),
                cell(version.sha256.chars().take(12).collect::<String>()),
                cell(bytes(version.size_bytes)),
                cell(view.ago(version.created_at)),
                cell(version.imports.join(", ")),
            ]
        });
        let versions = view.table(["", "VERSION", "SHA256", "SIZE", "AGE", "IMPORTS"], 5, rows);
        text.push_str(&format!("\n\n{versions}"));
        if let Some(readme) = Some(self.readme.trim()).filter(|text| !text.is_empty()) {
            text.push_str(&format!("\n\n{}", plain_text(readme)));
        }
        text
    }
}

/// A list, or that there is none.
fn listed(items: impl Iterator<Item = String>) -> Cell {
    let text = items.collect::<Vec<_>>().join(", ");
    optional((!text.is_empty()).then_some(text))
}

fn needed(grant: &CapabilityGrant) -> String {
    grant.capability.clone()
}

fn revoked(grant: &CapabilityGrant, view: &View) -> Option<String> {
    let revocation = grant.revoked.as_ref()?;
    Some(format!("{} ({} ago)", grant.capability, view.ago(revocation.at)))
}

/// A worker type with what it lacks. Who can change that is in the JSON, and in the failure of a run.
fn denied(place: &Place) -> String {
    let lacks = place.denied.iter().map(|denied| match denied.by {
        Denier::WorkerType => format!("{} not granted", denied.capability),
        Denier::Organization => format!("{} revoked", denied.capability),
    });
    format!("{} ({})", place.worker_type, lacks.collect::<Vec<_>>().join(", "))
}

fn schema(grant: &SchemaGrant) -> String {
    let approved = if grant.approved { "approved" } else { "not approved" };
    format!("{} ({approved})", grant.schema)
}

fn owner(owner: Owner) -> &'static str {
    match owner {
        Owner::Org => "organisation",
        Owner::Platform => "platform",
    }
}

fn bytes(count: i64) -> String {
    size(u64::try_from(count).unwrap_or(0))
}
