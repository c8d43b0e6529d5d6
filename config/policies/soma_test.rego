package soma.policy_test

import data.soma.policy

subject := {"id": "u1", "tenant": "acme", "scopes": ["conversation.send", "memory.*", "tool.execute"], "roles": []}

request(action) := {
	"subject": subject,
	"action": action,
	"resource": {"type": "any", "id": "r1", "tenant": "acme", "attributes": {}},
	"context": {"request_id": "1", "method": "POST", "path": "/", "ip": "10.0.0.1", "persona_id": "p"},
}

changed(action, path, value) := json.patch(request(action), [{"op": "replace", "path": path, "value": value}])

without(action, path) := json.remove(request(action), [trim_prefix(path, "/")])

decide(document) := decision if {
	decision := policy.allow with input as document with data.tenants as {} with data.tenant_policies as {}
}

test_a_scope_permits_its_action if {
	decide(request("conversation.send")) == {"allow": true, "reasons": [], "obligations": {}}
}

test_a_scope_with_a_star_permits_what_begins_so if {
	every action in ["memory.read", "memory.write", "memory.delete", "memory.export"] {
		decide(request(action)).allow
	}
}

test_what_no_scope_covers_is_denied if {
	every action in ["settings.read", "settings.update", "llm.invoke", "audit.read", "tool.catalog.update", "constitution.load"] {
		decide(request(action)) == {"allow": false, "reasons": ["no scope covers the action"], "obligations": {}}
	}
}

test_a_star_alone_is_no_scope if {
	not decide(changed("memory.read", "/subject/scopes", ["*", ".*", "memory", "mem.*"])).allow
}

test_an_unknown_action_is_denied_whatever_the_scopes if {
	document := changed("memory.burn", "/subject/scopes", ["memory.*", "memory.burn"])
	decide(document).reasons == ["the action is unknown"]
}

test_another_tenants_resource_is_denied if {
	document := changed("memory.read", "/resource/tenant", "other")
	decide(document).reasons == ["the resource is another tenant's"]
}

test_administration_needs_the_role_and_the_scope if {
	scoped := changed("admin.users", "/subject/scopes", ["admin.*"])
	decide(scoped).reasons == ["the action needs the role admin"]
	admin := json.patch(scoped, [{"op": "replace", "path": "/subject/roles", "value": ["admin"]}])
	decide(admin).allow
	decide(changed("admin.users", "/subject/roles", ["admin"])).reasons == ["no scope covers the action"]
	not decide(json.remove(scoped, ["subject/roles"])).allow
	other := json.patch(admin, [{"op": "replace", "path": "/resource/tenant", "value": "other"}])
	not decide(other).allow
}

test_admin_with_nothing_behind_is_no_action if {
	document := json.patch(request("admin."), [
		{"op": "replace", "path": "/subject/scopes", "value": ["admin.*"]},
		{"op": "replace", "path": "/subject/roles", "value": ["admin"]},
	])
	decide(document).reasons == ["the action is unknown"]
}

test_what_is_missing_is_denied if {
	every path in ["/subject", "/subject/id", "/subject/tenant", "/subject/scopes", "/action", "/resource", "/resource/tenant"] {
		decision := decide(without("memory.read", path))
		decision.allow == false
		count(decision.reasons) > 0
	}
	every path in ["/resource", "/resource/id"] {
		decide(without("tool.execute", path)).allow == false
	}
}

test_values_of_another_type_are_denied if {
	every wrong in [null, true, 1, [], {}, ""] {
		every path in ["/subject", "/subject/id", "/subject/tenant", "/subject/scopes", "/action", "/resource", "/resource/tenant"] {
			not decide(changed("memory.read", path, wrong)).allow
		}
	}
}

test_tenants_that_are_both_empty_do_not_agree if {
	document := json.patch(request("memory.read"), [
		{"op": "replace", "path": "/subject/tenant", "value": ""},
		{"op": "replace", "path": "/resource/tenant", "value": ""},
	])
	not decide(document).allow
}

test_no_input_is_denied if {
	every document in [null, {}, [], "x", 1] {
		decide(document).allow == false
	}
}

test_a_suspended_tenant_is_denied if {
	decision := policy.allow with input as request("memory.read")
		with data.tenants as {"acme": {"suspended": true, "obligations": {"log": true}}}
		with data.tenant_policies as {}
	decision == {"allow": false, "reasons": ["the tenant is suspended"], "obligations": {}}
}

test_a_tenant_denies_actions_and_tools if {
	tenants := {"acme": {"denied_actions": ["memory.delete"], "denied_tools": ["shell"]}}
	deleted := policy.allow with input as request("memory.delete") with data.tenants as tenants with data.tenant_policies as {}
	deleted.reasons == ["the tenant does not allow the action"]
	shell := changed("tool.execute", "/resource/id", "shell")
	ran := policy.allow with input as shell with data.tenants as tenants with data.tenant_policies as {}
	ran.reasons == ["the tenant does not allow the tool"]
	other := policy.allow with input as request("tool.execute") with data.tenants as tenants with data.tenant_policies as {}
	other.allow
}

test_obligations_come_with_what_is_permitted if {
	decision := policy.allow with input as request("memory.read")
		with data.tenants as {"acme": {"obligations": {"redact": ["email"]}}}
		with data.tenant_policies as {}
	decision == {"allow": true, "reasons": [], "obligations": {"redact": ["email"]}}
}

test_a_tenants_policy_only_denies if {
	every denied in [{"not today"}, ["not today"], true, "no", 0, null] {
		decision := policy.allow with input as request("memory.read")
			with data.tenants as {}
			with data.tenant_policies as {"acme": {"deny": denied}}
		not decision.allow
	}
	every nothing in [set(), false] {
		decision := policy.allow with input as request("memory.read")
			with data.tenants as {}
			with data.tenant_policies as {"acme": {"deny": nothing}}
		decision.allow
	}
	widened := policy.allow with input as request("settings.read")
		with data.tenants as {}
		with data.tenant_policies as {"acme": {"allow": true, "deny": set(), "permitted": true}}
	not widened.allow
	others := policy.allow with input as request("memory.read")
		with data.tenants as {}
		with data.tenant_policies as {"other": {"deny": {"not today"}}}
	others.allow
}
