//! Catalogue files: what can be hired, and what can be integrated.

use std::{collections::BTreeSet, ptr};

use mi_integrations as integrations;
use mi_scheduler::catalogue;

/// A text as each of the catalogues.
pub fn catalogue(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else {
        return false;
    };
    // No `||`: both are to be tried.
    hiring(text) | integrating(text)
}

fn hiring(text: &str) -> bool {
    let catalogue = match catalogue::Catalogue::parse(text) {
        Ok(catalogue) => catalogue,
        Err(error) => {
            assert_eq!(error.field, Some("catalogue"));
            return false;
        }
    };
    assert!(!catalogue.tiers.is_empty(), "{text}");
    for tier in &catalogue.tiers {
        assert!(!tier.name.is_empty() && tier.input_price >= 0 && tier.output_price >= 0, "{tier:?}");
        assert!(ptr::eq(catalogue.tier("tier", &tier.name).expect("listed"), tier), "{tier:?}");
    }
    for role in &catalogue.roles {
        assert!(!role.name.is_empty(), "{role:?}");
        assert!(ptr::eq(catalogue.role("role", &role.name).expect("listed"), role), "{role:?}");
        assert!(role.tier.is_empty() || catalogue.tier("tier", &role.tier).is_ok(), "{role:?}");
    }
    true
}

fn integrating(text: &str) -> bool {
    let catalogue = match integrations::Catalogue::parse(text) {
        Ok(catalogue) => catalogue,
        Err(error) => {
            assert_eq!(error.field, Some("integrations"));
            return false;
        }
    };
    for integration in &catalogue.integrations {
        let found = catalogue.integration("integration", &integration.name).expect("listed");
        assert!(!integration.name.is_empty() && ptr::eq(found, integration), "{integration:?}");
        assert!(integration.secrets.iter().any(|spec| spec.required), "{integration:?}");
        for spec in &integration.secrets {
            let found = integration.secret("secret", &spec.name).expect("listed");
            assert!(!spec.name.is_empty() && ptr::eq(found, spec), "{spec:?}");
            // What a shell and the platform's own settings allow.
            let env = |byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_');
            assert!(!spec.env.is_empty() && spec.env.bytes().all(env) && !spec.env.starts_with("MI_"), "{spec:?}");
        }
        let envs: BTreeSet<&str> = integration.secrets.iter().map(|spec| spec.env.as_str()).collect();
        assert_eq!(envs.len(), integration.secrets.len(), "{integration:?}");
    }
    true
}
