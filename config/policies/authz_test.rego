package system.authz_test

import data.system.authz

may(method, path) if authz.allow with input as {"method": method, "path": split(path, "/")}

test_decisions_and_health_are_for_anyone if {
	may("POST", "v1/data/soma/policy/allow")
	may("GET", "v1/data/soma/policy/allow")
	may("GET", "health")
	may("GET", "metrics")
	may("GET", "v1/status")
}

test_nothing_else_is if {
	every path in ["v1/policies", "v1/policies/x", "v1/data", "v1/data/soma", "v1/data/tenants", "v1/data/system/bundles", "v1/query", "v1/compile", "v1/config", "v0/data/soma/policy", "debug/pprof", "", "health/x"] {
		every method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
			not may(method, path)
		}
	}
	every method in ["PUT", "PATCH", "DELETE"] {
		not may(method, "v1/data/soma/policy/allow")
	}
	every method in ["POST", "PUT", "PATCH", "DELETE"] {
		not may(method, "health")
		not may(method, "v1/status")
	}
}
