package objectstore

// ObjectKey is where a tenant's input object lives.
func ObjectKey(tenant, key string) string { return "t/" + tenant + "/o/" + key }

// ArtifactKey is where a function's artifact lives, by digest.
func ArtifactKey(tenant, digest string) string { return "t/" + tenant + "/a/" + digest }

// BodyKey is where a body or result above api.InlineBytes lives.
func BodyKey(tenant, id string) string { return "t/" + tenant + "/b/" + id }

// ModelKey is where a tree, scorecard or checkpoint of the model lives, by digest.
func ModelKey(digest string) string { return "m/" + digest }
