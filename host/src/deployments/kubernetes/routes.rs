//! What leads requests from outside to an app: an HTTPRoute where the cluster has a Gateway, else an Ingress.
//!
//! Their hosts lie below the environment's own suffix, their backends are Services beside them, and they
//! carry no annotations: the admission policies let no others pass, ours neither.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde_json::{Value, json};

use super::objects::{Object, Spec};
use crate::deployments::traffic::Door;

/// The Gateway API, as its standard channel has it.
pub const GATEWAY_API: &str = "apis/gateway.networking.k8s.io/v1";
/// Where Ingresses are.
pub const INGRESS_API: &str = "apis/networking.k8s.io/v1";

/// The kind, for whoever watches what there is of it.
#[derive(Clone, Debug)]
pub struct HttpRoute(ObjectMeta);

impl Resource for HttpRoute {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "HTTPRoute".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "gateway.networking.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "httproutes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0
    }
}

impl Spec {
    /// The HTTPRoute: all that is asked of its hosts goes to the app's Service, and by weight to those of
    /// its canaries.
    pub fn http_route(&self) -> Object {
        let traffic = &self.traffic;
        let body = match &traffic.door {
            Some(Door::Gateway(gateway)) => {
                let backend = |app: &str| json!({ "name": app, "port": 80 });
                let weighed = |app: &str, weight: i32| {
                    let mut backend = backend(app);
                    backend["weight"] = json!(weight);
                    backend
                };
                let backends: Vec<Value> = match traffic.canaries.is_empty() {
                    true => vec![backend(&self.app)],
                    false => std::iter::once(weighed(&self.app, traffic.own_percent()))
                        .chain(traffic.canaries.iter().map(|it| weighed(&it.app, it.percent)))
                        .collect(),
                };
                Some(json!({
                    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                    "metadata": self.metadata(&self.app),
                    "spec": {
                        "parentRefs": [{ "namespace": gateway.namespace, "name": gateway.name }],
                        "hostnames": traffic.hosts,
                        "rules": [{ "backendRefs": backends }],
                    },
                }))
            }
            _ => None,
        };
        Object { api: GATEWAY_API, plural: "httproutes", name: self.app.clone(), body }
    }

    /// The Ingress: all that is asked of its hosts goes to the app's Service.
    pub fn ingress(&self) -> Object {
        let traffic = &self.traffic;
        let body = match &traffic.door {
            Some(Door::Ingress(class)) => {
                let rule = |host: &String| {
                    json!({
                        "host": host,
                        "http": { "paths": [{
                            "path": "/", "pathType": "Prefix",
                            "backend": { "service": { "name": self.app, "port": { "number": 80 } } },
                        }] },
                    })
                };
                let rules: Vec<Value> = traffic.hosts.iter().map(rule).collect();
                let mut spec = json!({ "ingressClassName": class, "rules": rules });
                if traffic.https {
                    // Without a Secret: the controller's own certificate.
                    spec["tls"] = json!([{ "hosts": traffic.hosts }]);
                }
                Some(json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                    "metadata": self.metadata(&self.app), "spec": spec,
                }))
            }
            _ => None,
        };
        Object { api: INGRESS_API, plural: "ingresses", name: self.app.clone(), body }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::objects::tests::spec;
    use super::*;
    use crate::deployments::Canary;
    use crate::deployments::clusters::Gateway;
    use crate::deployments::traffic::{Canary as Share, Traffic};

    fn traffic(door: Option<Door>, canaries: &[(&str, i32)]) -> Traffic {
        Traffic {
            hosts: match door {
                Some(_) => vec!["api.prod.acme.apps.example.com".into()],
                None => Vec::new(),
            },
            door,
            https: false,
            canaries: canaries
                .iter()
                .map(|(app, percent)| Share { app: (*app).into(), percent: *percent })
                .collect(),
        }
    }

    fn gateway() -> Option<Door> {
        Some(Door::Gateway(Gateway { namespace: "eve-gateway".into(), name: "tenants".into() }))
    }

    fn shown(traffic: Traffic) -> Value {
        let spec = Spec { traffic, ..spec() };
        let service = spec.service().body.unwrap_or_default();
        json!({
            "selector": service["spec"]["selector"],
            "route": spec.http_route().body.map(|route| route["spec"].clone()),
            "ingress": spec.ingress().body.map(|ingress| ingress["spec"].clone()),
        })
    }

    #[test]
    fn what_leads_to_an_app() {
        let canary = [("api-canary", 10)];
        let https = Traffic { https: true, ..traffic(Some(Door::Ingress("nginx".into())), &[]) };
        insta::assert_json_snapshot!(json!({
            "nothing": shown(traffic(None, &[])),
            "replicas": shown(traffic(None, &canary)),
            "ingress": shown(https),
            "ingress and replicas": shown(traffic(Some(Door::Ingress("nginx".into())), &canary)),
            "gateway": shown(traffic(gateway(), &[])),
            "weights": shown(traffic(gateway(), &[("api-canary", 10), ("api-next", 25)])),
            "all of it": shown(traffic(gateway(), &[("api-canary", 100)])),
        }));
    }

    #[test]
    fn pods_of_a_canary_serve_the_main_app() {
        let serves = |spec: &Spec| {
            let deployment = spec.deployment(super::super::objects::Count::Exactly(1));
            let body = deployment.body.unwrap_or_default();
            let labels = &body["spec"]["template"]["metadata"]["labels"];
            // Who serves what may change; what a Deployment takes for its own never does.
            assert_eq!(
                body["spec"]["selector"]["matchLabels"]["eve-horizon.dev/serves"],
                Value::Null
            );
            assert_eq!(labels["eve-horizon.dev/app"], "api-service");
            labels["eve-horizon.dev/serves"].clone()
        };
        let mut spec = spec();
        assert_eq!(serves(&spec), "api-service");
        spec.settings.canary = Some(Canary { of: "api".into(), percent: 10 });
        assert_eq!(serves(&spec), "api");
    }
}
