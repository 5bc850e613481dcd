@echo off
rem Hands over to launch.py, which does the work on every platform.
rem One line starts it: after "A && B || C" a B that fails would be followed by C, the same verb a second time.
setlocal
set "LAUNCHER=python"
where py >nul 2>nul && set "LAUNCHER=py -3"
%LAUNCHER% "%~dp0launch.py" %*
exit /b %ERRORLEVEL%
