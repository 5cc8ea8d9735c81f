package api

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/uvbond/uvbond/server/problem"
)

// Problem is the body of every error answer (RFC 9457, media type
// application/problem+json).
type Problem struct {
	Title     string `json:"title" doc:"The status in words."`
	Status    int    `json:"status" doc:"The HTTP status."`
	Detail    string `json:"detail" doc:"What is wrong and what to do, for people."`
	Class     string `json:"class" doc:"What is wrong, for programs."`
	RequestID string `json:"request_id,omitempty" doc:"Names this request in the server's log."`

	header http.Header
}

// Error is the text for people.
func (p *Problem) Error() string { return p.Detail }

// GetStatus gives huma the status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders gives huma the headers.
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType replaces the media type of plain JSON.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// classes of the problems that huma finds by itself.
var classes = map[int]string{
	http.StatusBadRequest: problem.ClassInvalid, http.StatusUnauthorized: problem.ClassUnauthorized,
	http.StatusNotFound: problem.ClassNotFound, http.StatusRequestTimeout: problem.ClassTimeout,
	http.StatusRequestEntityTooLarge: problem.ClassTooLarge, http.StatusUnsupportedMediaType: problem.ClassInvalid,
	http.StatusNotAcceptable: problem.ClassInvalid, http.StatusUnprocessableEntity: problem.ClassInvalid,
}

// problemType is for the API's description.
var problemType = reflect.TypeFor[Problem]()

var installErrors sync.Once

// installProblems makes huma answer with Problem. It is huma's own setting for
// the whole process.
func installProblems() {
	installErrors.Do(func() {
		huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
			p := newProblem(status, msg, errs...)
			if ctx != nil {
				p.RequestID = infoOf(ctx.Context()).id
			}
			return p
		}
		huma.NewError = func(status int, msg string, errs ...error) huma.StatusError { return newProblem(status, msg, errs...) }
	})
}

// newProblem joins huma's findings to one sentence. The values that it found
// wrong are left out: they may be tickets.
func newProblem(status int, msg string, errs ...error) *Problem {
	if msg == "cannot read request body" {
		status, msg, errs = http.StatusBadRequest, "the body ended early", nil
	}
	parts := []string{msg}
	for _, err := range errs {
		if d, ok := err.(huma.ErrorDetailer); ok {
			detail := d.ErrorDetail()
			parts = append(parts, strings.TrimPrefix(detail.Location+": "+detail.Message, ": "))
		}
	}
	if len(parts) > 6 {
		parts = append(parts[:6], "and more")
	}
	class, ok := classes[status]
	if !ok {
		class = problem.ClassInternal
	}
	return &Problem{Title: http.StatusText(status), Status: status, Detail: strings.Join(parts, "; "), Class: class}
}

// fail turns an error of a handler into its answer and keeps its cause for the
// log.
func fail(ctx context.Context, err error) error {
	info, p := infoOf(ctx), problem.Of(err)
	if p.Cause != nil {
		info.cause = p.Cause
	}
	return &Problem{Title: http.StatusText(p.Status), Status: p.Status, Detail: p.Detail, Class: p.Class, RequestID: info.id, header: p.Header}
}

// writeProblem answers outside huma.
func writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	p, ok := fail(r.Context(), err).(*Problem)
	if !ok {
		return
	}
	for k, v := range p.header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(p) //nolint:errcheck // a client that is gone gets nothing
}
