package wire

// Subjects. Everything begins with "rb."; names cannot contain dots (api.CheckName), so no name can reach into
// another's subject. docs/protocol.md lists each with direction, type, delivery, order and size.

// SubjectRun is where a node takes dispatches.
func SubjectRun(zone, node string) string { return "rb.z." + zone + ".n." + node + ".run" }

// SubjectNode is where a node takes everything else addressed to it; kind is cancel, ack, flush or logs.
func SubjectNode(zone, node, kind string) string { return "rb.z." + zone + ".n." + node + "." + kind }

// SubjectAllNodes reaches every node of the zone; kind is hello or flush.
func SubjectAllNodes(zone, kind string) string { return "rb.z." + zone + ".all." + kind }

// SubjectDone is where nodes send completions, for the leader.
func SubjectDone(zone string) string { return "rb.z." + zone + ".done" }

// SubjectHeartbeat is where nodes report, for leader and standbys.
func SubjectHeartbeat(zone string) string { return "rb.z." + zone + ".heartbeat" }

// SubjectSamples is the zone's sample stream.
func SubjectSamples(zone string) string { return "rb.z." + zone + ".samples" }

// SubjectLeader is where the leader answers requests; kind is invoke, cancel, checkpoint or query.
func SubjectLeader(zone, kind string) string { return "rb.z." + zone + ".leader." + kind }

// SubjectForward is where the leader takes calls of other zones under its grants.
func SubjectForward(zone string) string { return "rb.x." + zone + ".forward" }

// SubjectForwardCancel is where the leader hears of calls of other zones that nobody waits for any more.
func SubjectForwardCancel(zone string) string { return "rb.x." + zone + ".cancel" }

// SubjectGrants is where a zone hears what others grant it.
func SubjectGrants(zone string) string { return "rb.x." + zone + ".grants" }

// Subjects of the coordinator. Requests are answered by the raft leader only.
const (
	SubjectDigest   = "rb.g.digest"
	SubjectUpdate   = "rb.g.model"
	SubjectAnnounce = "rb.g.announce"
	SubjectControl  = "rb.g.control"
	SubjectCatalog  = "rb.g.catalog"
	SubjectStatus   = "rb.g.status"
	// SubjectGlobalAll matches everything the coordinator hears: tests count on it.
	SubjectGlobalAll = "rb.g.>"
)
