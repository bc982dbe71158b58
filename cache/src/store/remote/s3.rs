//! Buckets: what a location means, and what the environment says about the server.

use std::sync::{Arc, Once};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key, S3ConditionalPut};
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{Certificate, ClientOptions, RetryConfig};

use super::super::StoreError;
use super::failure::Endpoint;
use super::retry::Objects;

/// A connection that is not made within this time will not be made.
const CONNECT: Duration = Duration::from_secs(5);

/// The environment variables that begin with `AWS_`, or others given in their place.
pub(crate) type Variables = Vec<(String, String)>;

pub(crate) fn environment() -> Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("AWS_"))
        .collect()
}

/// A bucket that nothing has been asked of yet.
pub(crate) struct Bucket {
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) endpoint: Endpoint,
}

/// Prepares access to `s3://BUCKET/PREFIX`.
pub(crate) fn bucket(location: &str, variables: &Variables) -> Result<Bucket, StoreError> {
    let (name, prefix) = parse(location)?;
    let unusable = |source| StoreError::objects(|| format!("open the store `{location}`"))(source);
    static TLS: Once = Once::new();
    TLS.call_once(|| {
        // Another part of the program may have chosen before: then that is used.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
    let mut options = ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT);
    if let Some(path) = value(variables, "AWS_CA_BUNDLE") {
        let attempt = || format!("read the certificates in {path} (AWS_CA_BUNDLE)");
        let text = std::fs::read(path).map_err(StoreError::io(attempt))?;
        for certificate in Certificate::from_pem_bundle(&text).map_err(StoreError::objects(attempt))? {
            options = options.with_root_certificate(certificate);
        }
    }
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_client_options(options)
        .with_retry(retry)
        .with_conditional_put(S3ConditionalPut::ETagMatch);
    // The default region first: AWS_REGION has the last word.
    let default_first = |(name, _): &&(String, String)| name != "AWS_DEFAULT_REGION";
    let mut ordered: Vec<_> = variables.iter().collect();
    ordered.sort_by_key(default_first);
    for (variable, value) in ordered.into_iter().filter(|(_, value)| !value.is_empty()) {
        if let Ok(key) = variable.to_ascii_lowercase().parse::<Key>() {
            builder = builder.with_config(key, value);
        }
    }
    builder = builder.with_bucket_name(name);
    let endpoint = endpoint(&builder, variables);
    if endpoint.address.starts_with("http://") {
        builder = builder.with_allow_http(true);
    }
    check_credentials(location, &builder, variables)?;
    let objects = PrefixStore::new(builder.build().map_err(unusable)?, prefix);
    Ok(Bucket { objects: Arc::new(objects), endpoint })
}

/// The bucket, and the prefix in it.
fn parse(location: &str) -> Result<(String, ObjectPath), StoreError> {
    let rest = location.strip_prefix("s3://").unwrap_or(location);
    if rest.contains('@') {
        // What stands before it may be a secret.
        return Err(StoreError::InvalidLocation { location: "s3://…@…".to_owned() });
    }
    let invalid = || StoreError::InvalidLocation { location: location.to_owned() };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if bucket.is_empty() || !bucket.chars().all(plain) {
        return Err(invalid());
    }
    let prefix = ObjectPath::parse(prefix.trim_matches('/')).map_err(|_| invalid())?;
    Ok((bucket.to_owned(), prefix))
}

fn value<'a>(variables: &'a Variables, name: &str) -> Option<&'a str> {
    let found = variables.iter().find(|(variable, value)| variable == name && !value.is_empty());
    found.map(|(_, value)| value.as_str())
}

fn endpoint(builder: &AmazonS3Builder, variables: &Variables) -> Endpoint {
    let names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    let found = names.into_iter().find_map(|name| Some((name, value(variables, name)?)));
    let Some((variable, address)) = found else {
        let region = builder.get_config_value(&Key::Region).unwrap_or_else(|| "us-east-1".to_owned());
        return Endpoint { address: format!("https://s3.{region}.amazonaws.com"), variable: None };
    };
    let mut address = address.to_owned();
    if let Ok(mut url) = url::Url::parse(&address)
        && (url.username(), url.password()) != ("", None)
        && url.set_username("").and_then(|()| url.set_password(None)).is_ok()
    {
        address = url.to_string();
    }
    Endpoint { address: address.trim_end_matches('/').to_owned(), variable: Some(variable) }
}

/// Without any credentials, the client would ask the metadata service of Amazon's machines, which
/// elsewhere takes long to fail: that is done only where the environment asks for it.
fn check_credentials(
    location: &str,
    builder: &AmazonS3Builder,
    variables: &Variables,
) -> Result<(), StoreError> {
    let has = |key: Key| builder.get_config_value(&key).is_some();
    let keys = [has(Key::AccessKeyId), has(Key::SecretAccessKey)];
    let unsigned = builder.get_config_value(&Key::SkipSignature).is_some_and(|value| value == "true");
    let elsewhere = (has(Key::WebIdentityTokenFile) && has(Key::RoleArn))
        || has(Key::ContainerCredentialsRelativeUri)
        || has(Key::ContainerCredentialsFullUri)
        || has(Key::MetadataEndpoint)
        || value(variables, "AWS_EC2_METADATA_DISABLED")
            .is_some_and(|value| value.eq_ignore_ascii_case("false"));
    let missing = match keys {
        [true, true] => return Ok(()),
        [true, false] => "AWS_SECRET_ACCESS_KEY is not set",
        [false, true] => "AWS_ACCESS_KEY_ID is not set",
        [false, false] if unsigned || elsewhere => return Ok(()),
        [false, false] => "there are no credentials",
    };
    Err(StoreError::NoCredentials { location: location.to_owned(), missing })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const KEYS: [(&str, &str); 2] =
        [("AWS_ACCESS_KEY_ID", "AKEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "SKEXAMPLE")];

    #[test]
    fn a_location_is_a_bucket_and_a_prefix() {
        for (location, name, prefix) in
            [("s3://b", "b", ""), ("s3://b/", "b", ""), ("s3://b.c-d/e/f g/", "b.c-d", "e/f g")]
        {
            assert_eq!(parse(location).unwrap(), (name.to_owned(), ObjectPath::parse(prefix).unwrap()));
        }
        for location in ["s3://", "s3:///x", "s3://b//x//y", "s3://b/../x", "s3://b:80/x"] {
            let error = parse(location).unwrap_err();
            assert!(matches!(error, StoreError::InvalidLocation { .. }), "{location}: {error:?}");
        }
        let error = format!("{:?}", parse("s3://AKEXAMPLE:SKEXAMPLE@bucket").unwrap_err());
        assert!(!error.contains("SKEXAMPLE"), "{error}");
    }

    #[test]
    fn the_endpoint_is_named_without_passwords() {
        let of = |pairs: &[(&str, &str)]| {
            let all: Vec<_> = KEYS.iter().chain(pairs).copied().collect();
            bucket("s3://b/p", &variables(&all)).unwrap().endpoint
        };
        assert_eq!(of(&[]).address, "https://s3.us-east-1.amazonaws.com");
        let regions = [("AWS_REGION", "eu-west-1"), ("AWS_DEFAULT_REGION", "us-west-2")];
        assert_eq!(of(&regions).address, "https://s3.eu-west-1.amazonaws.com");
        let own = of(&[("AWS_ENDPOINT_URL", "http://user:secret@127.0.0.1:9000/")]);
        assert_eq!(
            own,
            Endpoint { address: "http://127.0.0.1:9000".to_owned(), variable: Some("AWS_ENDPOINT_URL") }
        );
    }

    #[test]
    fn missing_credentials_are_told_at_once() {
        for (pairs, message) in [
            (&[][..], "there are no credentials"),
            (&KEYS[..1], "AWS_SECRET_ACCESS_KEY is not set"),
            (&KEYS[1..], "AWS_ACCESS_KEY_ID is not set"),
        ] {
            let error = bucket("s3://b", &variables(pairs)).err().unwrap();
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.hint().unwrap().contains("AWS_ACCESS_KEY_ID"));
        }
        for pair in [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_SKIP_SIGNATURE", "true")] {
            assert!(bucket("s3://b", &variables(&[pair])).is_ok(), "{pair:?}");
        }
    }
}
