//! Has the migrations built in anew when one is added: `sqlx::migrate!` cannot tell cargo by itself.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
