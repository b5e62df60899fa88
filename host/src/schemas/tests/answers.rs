//! Values: what goes in comes back, and takes no more memory than it may.

use super::*;

#[tokio::test]
async fn values_come_back_as_they_went_in() {
    let stage = Stage::set(4).await;
    let acme = stage.org("acme").await;
    let schema = stage.schema(acme, "state").await;
    stage
        .migrate(
            acme,
            &schema,
            &[(
                1,
                "CREATE TYPE mood AS ENUM ('sad', 'happy');
                 CREATE TABLE everything (
                     b boolean, i2 smallint, i4 integer, i8 bigint, f4 real, f8 double precision,
                     n numeric, t text, v varchar(10), y bytea, j json, jb jsonb, u uuid,
                     tz timestamptz, d date, m mood, bs boolean[], i4s integer[], ts text[],
                     us uuid[], ys bytea[], ns numeric[], jbs jsonb[], tzs timestamptz[], ds date[],
                     f8s double precision[])",
            )],
        )
        .await
        .expect("a migration");
    let id = "0190b1a2-0000-7000-8000-000000000001";
    let row = vec![
        Value::Bool(true),
        Value::Int(-7),
        Value::Int(70_000),
        Value::Int(5_000_000_000),
        Value::Float(1.5),
        Value::Float(-0.1),
        Value::Numeric("-12345678901234567890.000123400".into()),
        text("it's \"quoted\" \\ 𝄞"),
        text("short"),
        Value::Bytes(vec![0, 1, 255]),
        Value::Json(r#"{"a": [1, null]}"#.into()),
        Value::Json(r#"{"a": [1, null]}"#.into()),
        Value::Uuid(id.into()),
        Value::Timestamp("2026-11-24T16:30:00.123456Z".into()),
        Value::Date("2026-02-28".into()),
        text("happy"),
        Value::Array(Element::Bool, vec![Value::Bool(false), Value::Null]),
        Value::Array(Element::Int, vec![Value::Int(1), Value::Null, Value::Int(-3)]),
        Value::Array(
            Element::Text,
            vec![text("a,b"), text("NULL"), text(""), text("\"\\"), Value::Null],
        ),
        Value::Array(Element::Uuid, vec![Value::Uuid(id.into())]),
        Value::Array(Element::Bytes, vec![Value::Bytes(vec![92, 34, 0])]),
        Value::Array(
            Element::Numeric,
            vec![Value::Numeric("0.10".into()), Value::Numeric("NaN".into())],
        ),
        Value::Array(Element::Json, vec![Value::Json(r#"{"a": "\""}"#.into())]),
        Value::Array(Element::Timestamp, vec![Value::Timestamp("1999-12-31T23:59:59Z".into())]),
        Value::Array(Element::Date, vec![Value::Date("0001-01-01".into())]),
        Value::Array(Element::Float, vec![Value::Float(0.25)]),
    ];
    let places: Vec<String> = (1..=row.len()).map(|n| format!("${n}")).collect();
    let insert = format!("INSERT INTO everything VALUES ({})", places.join(", "));
    let inserted = stage.run(acme, &schema, &insert, row.clone()).await.expect("an insertion");
    assert_eq!((inserted.affected, inserted.rows.len()), (1, 0));
    let nulls = format!("INSERT INTO everything VALUES ({})", places.join(", "));
    stage.run(acme, &schema, &nulls, vec![Value::Null; row.len()]).await.expect("nulls");
    let found = stage
        .run(acme, &schema, "SELECT * FROM everything ORDER BY b NULLS LAST", vec![])
        .await
        .expect("rows");
    assert_eq!(found.rows[0], row);
    assert_eq!(found.rows[1], vec![Value::Null; row.len()]);
    assert_eq!(found.columns[2], Column { name: "i4".into(), type_name: "int4".into() });

    let odd = stage
        .run(
            acme,
            &schema,
            "SELECT time '01:02:03.5', interval '1 year 2 months 3 days -04:05:06.7', timestamp '2026-01-02 03:04:05',
                    inet '10.0.0.1/8', 'infinity'::timestamptz, '-infinity'::date, 'NaN'::float8,
                    1e-10::numeric, 1e20::numeric, 0::numeric, '10000.5'::numeric, array[]::int[], $1, $2 + 1",
            vec![text("x"), Value::Int(2)],
        )
        .await
        .expect("values");
    let shown: Vec<serde_json::Value> = odd.rows[0].iter().map(Value::to_json).collect();
    assert_eq!(
        serde_json::Value::from(shown),
        serde_json::json!([
            "01:02:03.500",
            "P1Y2M3DT-4H-5M-6.7S",
            "2026-01-02 03:04:05",
            "10.0.0.1/8",
            "infinity",
            "-infinity",
            "NaN",
            "0.0000000001",
            "100000000000000000000",
            "0",
            "10000.5",
            [],
            "x",
            3
        ])
    );
    // A text is whatever it is compared with.
    let found = stage
        .run(
            acme,
            &schema,
            "SELECT count(*) FROM everything WHERE u = $1 AND tz < $2 AND m = $3 AND i8 > $4",
            vec![text(id), text("2030-01-01"), text("happy"), text("4")],
        )
        .await
        .expect("a count");
    assert_eq!(found.rows, [[Value::Int(1)]]);
}

/// A few bytes that would take very many of ours, and types that nobody could follow down.
#[tokio::test]
async fn answers_take_no_more_memory_than_they_may() {
    let stage = Stage::set(4).await;
    let acme = stage.org("acme").await;
    let schema = stage.schema(acme, "state").await;
    stage.migrate(acme, &schema, &[(1, "CREATE TABLE t (a int)")]).await.expect("a migration");
    let nulls = vec!["NULL::int"; 1_600].join(", ");
    for sql in [
        "SELECT array_fill(10::numeric ^ 131071, ARRAY[500000])".to_owned(),
        "SELECT array_fill(NULL::int, ARRAY[4000000])".to_owned(),
        format!("SELECT {nulls} FROM generate_series(1, 3600)"),
    ] {
        let error = stage.run(acme, &schema, &sql, vec![]).await.expect_err("too much");
        assert_eq!(code(&error), "limit", "{error}");
    }
    let many = "SELECT g, 'row ' || g FROM generate_series(1, 10000) g";
    assert_eq!(stage.run(acme, &schema, many, vec![]).await.expect("rows").rows.len(), 10_000);

    for (sql, expected) in [
        ("CREATE DOMAIN d1 AS int; CREATE DOMAIN d2 AS d1", "invalid"),
        ("CREATE DOMAIN d1 AS int; CREATE DOMAIN d2 AS d1[]", "invalid"),
        ("CREATE TYPE c AS (a int); CREATE TABLE u (c c)", "invalid"),
        ("CREATE TYPE c AS (a int); CREATE TABLE u (c c[])", "invalid"),
        ("CREATE TABLE u (t t)", "invalid"),
        (
            "CREATE DOMAIN d1 AS int; CREATE TYPE e AS ENUM ('x'); CREATE TABLE u (d d1, e e, es e[])",
            "fine",
        ),
    ] {
        let done = stage.migrate(acme, &schema, &[(1, "CREATE TABLE t (a int)"), (2, sql)]).await;
        assert_eq!(done.as_ref().map_or_else(code, |_| "fine"), expected, "{sql}: {done:?}");
        // What was refused half-way stands in no ledger.
        let ledger = stage.schemas.migrations(acme, &schema).await.expect("the ledger");
        assert_eq!(ledger.len(), if expected == "fine" { 2 } else { 1 }, "{sql}");
    }
}
