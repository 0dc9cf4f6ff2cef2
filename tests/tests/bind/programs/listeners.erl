%% Two listeners on one port, each with a process that accepts. Options of `gen_tcp` for SO_REUSEPORT are newer than
%% some of its versions, so it is set by its number.
Accept = fun Accept(Listener, Number) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    {ok, _} = gen_tcp:recv(Socket, 0),
    ok = gen_tcp:send(Socket, ["HTTP/1.0 200 OK\r\n\r\npid=", os:getpid(), " listener=", integer_to_list(Number), "\n"]),
    ok = gen_tcp:close(Socket),
    Accept(Listener, Number)
end,
Options = [binary, {ip, {127, 0, 0, 1}}, {active, false}, {reuseaddr, true}, {raw, 1, 15, <<1:32/native>>}],
Listen = fun(Number) ->
    {ok, Listener} = gen_tcp:listen(3000, Options),
    Accept(Listener, Number)
end,
[spawn(fun() -> Listen(Number) end) || Number <- [0, 1]].
