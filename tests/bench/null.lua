-- The null store: reads each request's body to its end, keeps nothing, and answers what S3 would.
--
-- GET /-/tally answers what arrived since the last time, as JSON, and forgets it. Everything else is S3, path style.
-- nginx's own `return` answers before the body is read, and its body reader writes large bodies to disk; this reads
-- and drops, so that the server's work is one copy of each byte.

local tally = ngx.shared.tally
local request, method = ngx.req, ngx.req.get_method()
local NAMES = { "objects", "parts", "bytes", "broken" }

if ngx.var.uri == "/-/tally" then
    local fields = {}
    for at, name in ipairs(NAMES) do
        fields[at] = string.format('"%s":%d', name, tally:get(name) or 0)
    end
    tally:flush_all()
    return ngx.print("{" .. table.concat(fields, ",") .. "}")
end

local function drain()
    local socket, trouble = request.socket()
    if not socket then
        if trouble == "no body" then
            return 0, true
        end
        request.read_body() -- a chunked body, which the raw socket does not decode
        return #(request.get_body_data() or ""), trouble == "chunked request bodies not supported yet"
    end
    local wanted, got = tonumber(ngx.var.http_content_length) or 0, 0
    while got < wanted do
        local data = socket:receiveany(262144)
        if not data then
            break
        end
        got = got + #data
    end
    return got, got == wanted
end

local bytes, whole = drain()
if not whole then
    tally:incr("broken", 1, 0)
    return ngx.exit(400)
end

local function count(what)
    tally:incr(what, 1, 0)
    tally:incr("bytes", bytes, 0)
end

local function answer(status, body)
    -- Not the form of an MD5, so that no client takes it for one.
    ngx.header["ETag"] = '"00000000000000000000000000000000-1"'
    ngx.status = status
    if status ~= 204 then
        ngx.header["Content-Length"] = #(body or "")
    end
    if body then
        ngx.header["Content-Type"] = "application/xml"
        if method ~= "HEAD" then
            ngx.print(body)
        end
    end
    return ngx.exit(status)
end

local function xml(name, inner)
    return '<?xml version="1.0" encoding="UTF-8"?>\n<' .. name .. ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        .. inner .. "</" .. name .. ">"
end

local query = ngx.var.args or ""
local bucket, key = ngx.var.uri:match("^/([^/]+)/?(.*)$")
local named = string.format("<Bucket>%s</Bucket><Key>k</Key>", bucket or "")

if method == "PUT" then
    count(query:find("uploadId=", 1, true) and "parts" or "objects")
    return answer(200)
elseif method == "POST" and query:find("uploadId=", 1, true) then
    tally:incr("objects", 1, 0)
    local etag = "<ETag>&quot;00000000000000000000000000000000-1&quot;</ETag>"
    return answer(200, xml("CompleteMultipartUploadResult", "<Location>http://127.0.0.1/</Location>" .. named .. etag))
elseif method == "POST" and query:find("uploads", 1, true) then
    return answer(200, xml("InitiateMultipartUploadResult", named .. "<UploadId>1</UploadId>"))
elseif method == "POST" then
    count("objects")
    return answer(204)
elseif method == "HEAD" then
    return answer(key == "" and 200 or 404)
elseif method == "GET" and key == "" then
    local listing = "<Name>" .. (bucket or "") .. "</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>"
    return answer(200, xml("ListBucketResult", listing))
elseif method == "DELETE" then
    return answer(204)
end
return answer(404, xml("Error", "<Code>NoSuchKey</Code><Message>This store keeps nothing.</Message>"))
