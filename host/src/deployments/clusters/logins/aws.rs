//! Amazon's: a token is a signed question to STS, who is asking, which the cluster puts to STS in our place
//! (<https://github.com/kubernetes-sigs/aws-iam-authenticator#api-authorization-from-outside-a-cluster>).
//! Nobody is called to make one.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{LoginError, MOST_TEXT, Token, fits};
use crate::requests::Invalid;

/// What the token begins with.
const PREFIX: &str = "k8s-aws-v1.";
/// The header that says for which cluster it is: another cluster does not take it.
const CLUSTER: &str = "x-k8s-aws-id";
/// What the URL says of how long it is good. Clusters go by the time of the signature instead, and STS too.
const SAID: Duration = Duration::from_secs(60);
/// How long clusters take it.
const LASTS: Duration = Duration::from_secs(15 * 60);

/// The access key of an IAM user or role that may enter an EKS cluster.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AwsLogin {
    /// Its id, such as AKIAIOSFODNN7EXAMPLE.
    pub access_key_id: String,
    /// Its secret.
    #[serde(serialize_with = "super::sealed")]
    #[schema(value_type = String, write_only)]
    pub secret_access_key: SecretString,
    /// The token that goes with a temporary key. Nobody renews it: the cluster cannot be entered any more once
    /// it has ended.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "super::sealed_option"
    )]
    #[schema(value_type = Option<String>, write_only)]
    pub session_token: Option<SecretString>,
    /// The region whose STS is asked, such as eu-central-1: that of the cluster.
    pub region: String,
    /// The name of the cluster at EKS.
    pub cluster_name: String,
}

impl AwsLogin {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let word = |byte: u8| byte.is_ascii_alphanumeric();
        if !fits(&self.access_key_id, 128, word) {
            return Err(Invalid::new(
                "aws.access_key_id",
                "must be letters and digits, at most 128",
            ));
        }
        let graphic = |byte: u8| byte.is_ascii_graphic();
        if !fits(self.secret_access_key.expose_secret(), 128, graphic) {
            let message = "must be visible characters without spaces, at most 128";
            return Err(Invalid::new("aws.secret_access_key", message));
        }
        if let Some(token) = &self.session_token
            && !fits(token.expose_secret(), MOST_TEXT, graphic)
        {
            return Err(Invalid::new(
                "aws.session_token",
                format_args!("must be visible characters without spaces, at most {MOST_TEXT}"),
            ));
        }
        // It becomes part of a host name.
        if !is_region(&self.region) {
            return Err(Invalid::new("aws.region", "must be a region, such as eu-central-1"));
        }
        // https://docs.aws.amazon.com/eks/latest/APIReference/API_CreateCluster.html
        let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !fits(&self.cluster_name, 100, name) || self.cluster_name.starts_with(['-', '_']) {
            return Err(Invalid::new(
                "aws.cluster_name",
                "must be the cluster's name at EKS: letters, digits, `-` and `_`, at most 100",
            ));
        }
        Ok(())
    }

    pub(super) fn token(&self, now: SystemTime) -> Result<Token, LoginError> {
        let url = self.signed(now)?;
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(url.expose_secret()));
        Ok(Token { token: token.into(), lasts: LASTS })
    }

    fn signed(&self, now: SystemTime) -> Result<SecretString, LoginError> {
        let unusable = |error: &dyn std::error::Error| LoginError::Unusable(error.to_string());
        let identity = Credentials::new(
            &self.access_key_id,
            self.secret_access_key.expose_secret(),
            self.session_token.as_ref().map(|token| token.expose_secret().to_owned()),
            None,
            "registered",
        )
        .into();
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(SAID);
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("sts")
            .time(now)
            .settings(settings)
            .build()
            .map_err(|error| unusable(&error))?
            .into();
        let mut url = url::Url::parse(&format!(
            "https://{}/?Action=GetCallerIdentity&Version=2011-06-15",
            sts(&self.region)
        ))
        .map_err(|error| unusable(&error))?;
        let headers = [(CLUSTER, self.cluster_name.as_str())].into_iter();
        let question = SignableRequest::new("GET", url.as_str(), headers, SignableBody::empty())
            .map_err(|error| unusable(&error))?;
        let (signed, _) =
            sign(question, &parameters).map_err(|error| unusable(&error))?.into_parts();
        url.query_pairs_mut().extend_pairs(signed.params());
        Ok(String::from(url).into())
    }
}

/// Two letters, words, a number: `eu-central-1`, `us-gov-west-1`.
fn is_region(text: &str) -> bool {
    let mut parts = text.split('-');
    let first = parts.next().is_some_and(|part| part.len() == 2 && letters(part));
    let last = parts.next_back().is_some_and(|part| fits(part, 2, |byte| byte.is_ascii_digit()));
    let words: Vec<_> = parts.collect();
    first
        && last
        && (1..=3).contains(&words.len())
        && text.len() <= 32
        && words.into_iter().all(letters)
}

fn letters(part: &str) -> bool {
    fits(part, 16, |byte| byte.is_ascii_lowercase())
}

/// STS of a region. China is an Internet of its own.
fn sts(region: &str) -> String {
    let china = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("sts.{region}.amazonaws.com{china}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn login(session_token: Option<&str>, region: &str, cluster_name: &str) -> AwsLogin {
        AwsLogin {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned().into(),
            session_token: session_token.map(|token| token.to_owned().into()),
            region: region.into(),
            cluster_name: cluster_name.into(),
        }
    }

    /// Noon of 2026-03-01.
    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_366_400)
    }

    /// Signed by botocore 1.44 with the same key at the same time: its `SigV4QueryAuth` for
    /// `GET https://HOST/?Action=GetCallerIdentity&Version=2011-06-15` with the header `x-k8s-aws-id`.
    #[test]
    fn tokens_are_those_that_amazons_own_tools_make() {
        let session = "IQoJb3JpZ2luX2VjEJr//////////wEaDGV1LWNlbnRyYWwtMSJH+x=";
        for (login, host, signature) in [
            (
                login(None, "eu-central-1", "prod"),
                "sts.eu-central-1.amazonaws.com",
                "0079937f8262e9c05fe9d947407b9ae46c2cc9b8e1a11dad72f65d8266910ef2",
            ),
            (
                login(Some(session), "cn-north-1", "prod_1"),
                "sts.cn-north-1.amazonaws.com.cn",
                "98f5d176246434552dbdfad1f91d64233d9b09506b8286730cdd5d60b7cf74d4",
            ),
        ] {
            let token = login.token(noon()).expect("a token");
            let text = token.token.expose_secret().strip_prefix("k8s-aws-v1.").expect("a prefix");
            let text =
                String::from_utf8(URL_SAFE_NO_PAD.decode(text).expect("base64")).expect("text");
            let url = url::Url::parse(&text).expect("a URL");
            assert_eq!((url.scheme(), url.host_str(), url.path()), ("https", Some(host), "/"));
            let region = &login.region;
            let scope = format!("AKIAIOSFODNN7EXAMPLE/20260301/{region}/sts/aws4_request");
            let mut expected = BTreeMap::from([
                ("Action", "GetCallerIdentity"),
                ("Version", "2011-06-15"),
                ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
                ("X-Amz-Credential", &scope),
                ("X-Amz-Date", "20260301T120000Z"),
                ("X-Amz-Expires", "60"),
                ("X-Amz-SignedHeaders", "host;x-k8s-aws-id"),
                ("X-Amz-Signature", signature),
            ]);
            if login.session_token.is_some() {
                expected.insert("X-Amz-Security-Token", session);
            }
            let found: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            let found: BTreeMap<_, _> =
                found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(found, expected);
            assert!(!text.contains("wJalr"), "the secret is in no token");
        }
    }

    #[test]
    fn a_region_leads_nowhere_else() {
        for good in ["eu-central-1", "us-gov-west-1", "ap-southeast-12", "us-iso-east-1"] {
            assert!(is_region(good), "{good}");
        }
        for bad in [
            "",
            "eu",
            "eu-1",
            "eu-central",
            "evil.example/",
            "eu-central-1.evil.example",
            "eu-central-1/",
            "eu-Central-1",
            "eu--1",
            "-central-1",
            "eu-central-",
            "eu-central-1#",
            "eu-central-100",
            "eu-central-1@evil",
            "eu central 1",
            "eu-a-b-c-d-1",
        ] {
            assert!(!is_region(bad), "{bad}");
            let refused = login(None, bad, "prod").check().expect_err(bad);
            assert_eq!(refused.field, "aws.region");
        }
    }

    #[test]
    fn what_is_no_login_is_refused_with_the_field() {
        let good = || login(None, "eu-central-1", "prod");
        assert!(good().check().is_ok());
        let long = "a".repeat(5_000);
        for (login, field) in [
            (AwsLogin { access_key_id: "A B".into(), ..good() }, "aws.access_key_id"),
            (AwsLogin { access_key_id: String::new(), ..good() }, "aws.access_key_id"),
            (
                AwsLogin { secret_access_key: "a\nb".to_owned().into(), ..good() },
                "aws.secret_access_key",
            ),
            (AwsLogin { session_token: Some(long.into()), ..good() }, "aws.session_token"),
            (AwsLogin { cluster_name: "a\r\nx: y".into(), ..good() }, "aws.cluster_name"),
            (AwsLogin { cluster_name: "-a".into(), ..good() }, "aws.cluster_name"),
        ] {
            assert_eq!(login.check().expect_err(field).field, field);
        }
    }
}
