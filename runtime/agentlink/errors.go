package agentlink

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// IsNotFound says that the agent does not know the container or process. Agents of Kata Containers say so in words
// only.
func IsNotFound(err error) bool {
	for _, s := range causes(err) {
		if s.Code() == codes.NotFound {
			return true
		}
		for _, words := range []string{"Invalid container id", "no such process", "ESRCH"} {
			if strings.Contains(s.Message(), words) {
				return true
			}
		}
	}
	return false
}

// causes are the answers of the agent in err.
func causes(err error) []*status.Status {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		return []*status.Status{s}
	}
	return nil
}
