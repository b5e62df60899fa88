//! An organisation to act for.

use anyhow::Result;
use eve_host::tenancy::tokens::TokenSecret;
use sqlx::PgPool;
use uuid::Uuid;

use crate::database::Database;

/// An organisation, its owner, and a token of theirs that may do whatever the owner may.
#[derive(Clone, Debug)]
pub struct Org {
    /// Its id.
    pub id: Uuid,
    /// Its short name.
    pub slug: String,
    /// Its owner.
    pub owner: Uuid,
    /// What the owner presents to the API.
    pub token: String,
}

impl Org {
    /// Makes one past the API, whose own tests are elsewhere: nobody could ask for the first.
    pub async fn create(database: &Database, slug: &str) -> Result<Org> {
        Self::create_in(&database.pool(), slug).await
    }

    /// The same on somebody else's database.
    pub async fn create_in(pool: &PgPool, slug: &str) -> Result<Org> {
        let owner = Uuid::now_v7();
        let token = TokenSecret::generate();
        let mut tx = pool.begin().await?;
        let id: Uuid = sqlx::query_scalar(
            "INSERT INTO eve.organizations (slug, name) VALUES ($1, $1) RETURNING id",
        )
        .bind(slug)
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query("INSERT INTO auth.users (id, email) VALUES ($1, $2)")
            .bind(owner)
            .bind(format!("owner@{slug}.test"))
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO eve.org_members (org_id, user_id, role) VALUES ($1, $2, 'owner')")
            .bind(id)
            .bind(owner)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO eve.api_tokens (id, org_id, user_id, name, prefix, token_hash, role)
             VALUES ($1, $2, $3, 'test', $4, $5, 'owner')",
        )
        .bind(Uuid::now_v7())
        .bind(id)
        .bind(owner)
        .bind(token.shown())
        .bind(&token.hash()[..])
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Org { id, slug: slug.to_owned(), owner, token: token.expose().to_owned() })
    }
}
